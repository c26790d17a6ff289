"""bfloat16 as C macros: stores of vectors, words of two numbers that are rounded and multiplied. All: equal bits."""

from __future__ import annotations

PAIR_VECTORS = r"""
#define MOA_TO_BF16(x) __extension__({ \
    const moa_v v_ = (x); \
    const moa_x b_ = (moa_x)v_, high_ = b_ >> 16, odd_ = high_ & 1u, nan_ = (moa_x)(v_ != v_); \
    __builtin_convertvector((nan_ & (high_ | 64u)) | (~nan_ & ((b_ + 0x7fffu + odd_) >> 16)), moa_vu16); })
typedef moa_n moa_vpair __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));
typedef uint16_t moa_h __attribute__((vector_size(4 * WIDTH)));
#if defined(__clang__)
#define MOA_WEAVE(a, b, ...) ((moa_w)__builtin_shufflevector((moa_h)(a), (moa_h)(b), __VA_ARGS__))
#else
#define MOA_WEAVE(a, b, ...) ((moa_w)__builtin_shuffle((moa_h)(a), (moa_h)(b), (moa_h){__VA_ARGS__}))
#endif
#define MOA_WORDS(p, i) ((moa_w)__builtin_convertvector(MOA_VEC(moa_vu16, moa_bf16, p, i), moa_x))
#define MOA_WORDSM(p, i, m) __extension__({ \
    moa_w r_ = {0}; \
    for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m, k_)) r_[k_] = MOA_AT(moa_bf16, p, (i) + k_); \
    r_; })
#if defined(MOA_AVX512) && defined(__AVX512BF16__)
#define MOA_DOT2(x, a, b) ((moa_v)_mm512_dpbf16_ps((__m512)(x), (__m512bh)(a), (__m512bh)(b)))
#define MOA_PAIR(a, b) ((moa_w)_mm512_permutexvar_epi16((__m512i)(moa_x){EVERY_OTHER}, \
    (__m512i)_mm512_cvtne2ps_pbh((__m512)(b), (__m512)(a))))
#else
#define MOA_FLUSH(x) __extension__({ \
    const moa_x f_ = (moa_x)(x); \
    (moa_v)(f_ & (~(moa_x)((f_ & 0x7fffffffu) < 0x800000u) | 0x80000000u)); })
#define MOA_NEAR(x) __extension__({ \
    const moa_v x_ = (x); \
    const moa_x n_ = (moa_x)MOA_FLUSH(x_), near_ = n_ + 0x7fffu + (n_ >> 16 & 1u), nan_ = (moa_x)(x_ != x_); \
    (nan_ & (n_ | 0x400000u)) | (~nan_ & near_); })
#define MOA_PAIR(a, b) ((moa_w)((MOA_NEAR(a) >> 16) | (MOA_NEAR(b) & 0xffff0000u)))
#define MOA_DOT2(x, a, b) __extension__({ \
    const moa_x a_ = (moa_x)(a), b_ = (moa_x)(b); \
    const moa_v c_ = MOA_FLUSH(x), d_ = MOA_FLUSH(a_ & 0xffff0000u), e_ = MOA_FLUSH(b_ & 0xffff0000u); \
    const moa_v t_ = MOA_FMA(d_, e_, c_), g_ = MOA_FLUSH(t_), h_ = MOA_FLUSH(a_ << 16), i_ = MOA_FLUSH(b_ << 16); \
    const moa_v s_ = MOA_FMA(h_, i_, g_); \
    MOA_FLUSH(s_); })
#endif
"""
