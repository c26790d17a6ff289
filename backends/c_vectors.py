"""The C text before a kernel: its types, scalar helpers, and every vector instruction as a macro.

A macro has one portable form, in GCC's vector extensions, and shorter ones where the compiler is told of AVX-512, AVX,
FMA, SSE or NEON; all forms give the same bits. Macros are used since a vector in a parameter would depend on the ABI.
"""

from __future__ import annotations

import re

from moa.backends.c_across import ACROSS_VECTORS, LAST, steps
from moa.backends.c_pairs import PAIR_VECTORS
from moa.backends.c_sums import sums

SCALARS = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
/* GCC 12 has been seen to vectorise a loop of scalars around vectors wrongly */
#pragma GCC optimize("fp-contract=off", "no-tree-vectorize")
#if defined(__AVX512F__)
/* as tuned for other processors it keeps addresses in vector registers, from where each round of a loop fetches them */
#pragma GCC target("tune=skylake-avx512")
#endif
#else
#error "this file needs GCC or clang: it uses vector extensions"
#endif
#if defined(__FAST_MATH__)
#error "this file must not be compiled with -ffast-math"
#endif
#define MOA_HELPER static inline __attribute__((unused))
#if defined(__clang__)
#define MOA_NEST __attribute__((noinline))
#else
/* GCC 12 took functions that store by induction variables to be pure, and lost what they make */
#define MOA_NEST __attribute__((noipa))
#endif
"""

HELPERS = r"""
typedef unsigned char *moa_p;
typedef FLOAT moa_f;
typedef INT moa_n;
typedef UINT moa_u;
typedef float moa_f32 __attribute__((may_alias));
typedef double moa_f64 __attribute__((may_alias));
typedef int64_t moa_i64 __attribute__((may_alias));
typedef uint8_t moa_u8 __attribute__((may_alias));
typedef uint16_t moa_f16 __attribute__((may_alias));
typedef uint16_t moa_bf16 __attribute__((may_alias));
typedef uint32_t moa_pair __attribute__((may_alias, aligned(2)));

#define MOA_AT(type, p, i) (*(type *)(void *)((p) + (i) * (int64_t)sizeof(type)))

MOA_HELPER double moa_double(int64_t word) { double x; memcpy(&x, &word, sizeof x); return x; }
MOA_HELPER moa_n moa_bits(moa_f x) { moa_n n; memcpy(&n, &x, sizeof n); return n; }
MOA_HELPER moa_f moa_value(moa_n n) { moa_f x; memcpy(&x, &n, sizeof x); return x; }
MOA_HELPER int64_t moa_idiv(int64_t a, int64_t b) { return a / b - (a % b < 0); }
MOA_HELPER int64_t moa_imod(int64_t a, int64_t b) { const int64_t r = a % b; return r < 0 ? r + b : r; }
MOA_HELPER int64_t moa_f2i(moa_f x) {
    if (x != x) return 0;
    if (x >= (moa_f)9223372036854775808.0) return INT64_MAX;
    return x < (moa_f)-9223372036854775808.0 ? INT64_MIN : (int64_t)x;
}
MOA_HELPER moa_f moa_fmaxn(moa_f a, moa_f b) {
    if (a != a) return a;
    return a == b ? moa_value(moa_bits(a) & moa_bits(b)) : a > b ? a : b;
}
MOA_HELPER moa_f moa_fminn(moa_f a, moa_f b) {
    if (a != a) return a;
    return a == b ? moa_value(moa_bits(a) | moa_bits(b)) : a < b ? a : b;
}
MOA_HELPER moa_f moa_fraction(moa_f x) {
    const moa_f whole = __builtin_floorSUFFIX(x), near_ = -(whole - x);
    if (__builtin_fabsSUFFIX(x) == __builtin_infSUFFIX()) return 0;
    return moa_value((moa_n)(moa_bits(near_) - (near_ + whole > x)));
}
/* a power of two from the integer that a float holds; the magic number moves it into the low bits */
MOA_HELPER moa_f moa_power(moa_f n) { return moa_value((moa_n)((moa_u)moa_bits(n + MAGIC_BIAS) << SHIFT)); }
MOA_HELPER moa_f moa_scale(moa_f x, moa_f n) {
    const moa_f above = LOWEST_POWER > n ? LOWEST_POWER : n, both = HIGHEST_POWER < above ? HIGHEST_POWER : above;
    moa_f total, first;
    if (n != n) return n;
    total = __builtin_floorSUFFIX(both);
    first = __builtin_floorSUFFIX(total * (moa_f)0.5);
    return x * moa_power(first) * moa_power(total - first);
}
MOA_HELPER moa_n moa_log2(moa_f x) { return (moa_n)(moa_bits(x) - START) >> SHIFT; }
MOA_HELPER moa_f moa_mantissa(moa_f x) {
    const moa_f y = x < TINY ? x * LIFT : x;
    return moa_value((moa_n)((moa_u)moa_bits(y) - ((moa_u)moa_log2(y) << SHIFT)));
}
MOA_HELPER moa_f moa_exponent(moa_f x) {
    return x < TINY ? (moa_f)(moa_log2(x * LIFT) - SHIFT) : (moa_f)moa_log2(x);
}
"""

SHORT = r"""
MOA_HELPER uint32_t moa_single_bits(float x) { uint32_t n; memcpy(&n, &x, sizeof n); return n; }
MOA_HELPER float moa_single(uint32_t n) { float x; memcpy(&x, &n, sizeof x); return x; }
/* rounding to odd, so that the rounding to 16 bits is the only one (Boldo and Melquiond 2008) */
MOA_HELPER float moa_odd(moa_f x) {
    const float near_ = (float)x;
    const double back = (double)near_, wide = (double)x;
    const uint32_t above = __builtin_fabs(back) > __builtin_fabs(wide);
    return back == wide || wide != wide ? near_ : moa_single((moa_single_bits(near_) - above) | 1u);
}
MOA_HELPER float moa_from_bf16(uint16_t n) { return moa_single((uint32_t)n << 16); }
MOA_HELPER uint16_t moa_to_bf16(moa_f x) {
    const uint32_t n = moa_single_bits(moa_odd(x));
    return (uint16_t)(x != x ? n >> 16 | 64u : (n + 32767u + (n >> 16 & 1u)) >> 16);
}
MOA_HELPER float moa_from_f16(uint16_t n) {
#if defined(__CUDA_ARCH__)
    float x;
    __asm__("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(n));
    return x;
#elif defined(__F16C__) && !defined(__CUDACC__)
    return _cvtsh_ss(n);
#else
    const uint32_t sign = (uint32_t)(n & 0x8000u) << 16, rest = n & 0x7fffu;
    const uint32_t quiet = rest > 0x7c00u ? 0x400000u : 0;
    if (rest >= 0x7c00u) return moa_single(sign | 0x7f800000u | (rest & 0x3ffu) << 13 | quiet);
    return moa_single(sign | moa_single_bits(moa_single(rest << 13) * 0x1p112f));
#endif
}
MOA_HELPER uint16_t moa_to_f16(moa_f x) {
    const uint32_t n = moa_single_bits(moa_odd(x)), size = n & 0x7fffffffu;
    uint32_t h;
    if (size > 0x7f800000u) h = 0x7e00u | (size >> 13 & 0x3ffu);
    else if (size >= 0x47800000u) h = 0x7c00u;
    else if (size < 0x38800000u) h = moa_single_bits(moa_single(size) + 0.5f) - 0x3f000000u;
    else h = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    return (uint16_t)(h | (n >> 16 & 0x8000u));
}
"""
"""bf16 and f16 in memory."""

VECTORS = r"""
#define MOA_BYTES BYTES
typedef moa_f moa_v __attribute__((vector_size(BYTES)));
typedef moa_n moa_w __attribute__((vector_size(BYTES)));
typedef moa_u moa_x __attribute__((vector_size(BYTES)));
typedef moa_f moa_va __attribute__((vector_size(BYTES), may_alias));
typedef moa_f moa_vu __attribute__((vector_size(BYTES), aligned(LANE), may_alias));
typedef float moa_vf32 __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef double moa_vf64 __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));
typedef int64_t moa_vi64 __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));
typedef uint8_t moa_vu8 __attribute__((vector_size(WIDTH), aligned(1), may_alias));

#define MOA_VEC(type, element, p, i) (*(type *)(void *)((p) + (i) * (int64_t)sizeof(element)))
#define MOA_SPLAT(x) ((moa_v){ALL_X})
#define MOA_WSPLAT(x) ((moa_w){ALL_X})
#define MOA_LANES ((moa_w){LANES})
#define MOA_PREFETCH(p, i) __builtin_prefetch((const void *)((uintptr_t)(p) + (uintptr_t)(int64_t)(i)), 0, 2)
#define MOA_MOVED(p, bytes) ((moa_p)((uintptr_t)(p) + (uintptr_t)(int64_t)(bytes)))
#define MOA_INSERT(v, k, x) __extension__({ moa_v r_ = (v); r_[k] = (x); r_; })
#if defined(__clang__)
#define MOA_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#define MOA_SHUFFLE_TWO(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MOA_SHUFFLE(v, ...) __builtin_shuffle(v, (moa_w){__VA_ARGS__})
#define MOA_SHUFFLE_TWO(a, b, ...) __builtin_shuffle(a, b, (moa_w){__VA_ARGS__})
#endif
#define MOA_EACH(f, ...) __extension__({ moa_v r_; for (int k_ = 0; k_ < WIDTH; k_++) r_[k_] = f(__VA_ARGS__); r_; })
#define MOA_WADD(a, b) ((moa_w)((moa_x)(a) + (moa_x)(b)))
#define MOA_WSUB(a, b) ((moa_w)((moa_x)(a) - (moa_x)(b)))
#define MOA_WMUL(a, b) ((moa_w)((moa_x)(a) * (moa_x)(b)))

#if defined(MOA_AVX512)
typedef __mmaskMASK moa_m;
#define MOA_TRUE ((moa_m)-1)
#define MOA_FALSE ((moa_m)0)
#define MOA_NOT(m) ((moa_m)~(m))
#define MOA_AND(a, b) ((moa_m)((a) & (b)))
#define MOA_OR(a, b) ((moa_m)((a) | (b)))
#define MOA_FIRST(n) ((moa_m)((n) <= 0 ? 0u : (n) >= WIDTH ? ONES : (1u << (n)) - 1u))
#define MOA_BSPLAT(b) ((b) ? MOA_TRUE : MOA_FALSE)
#define MOA_FCMP(name, op, a, b) _mm512_cmp_PS_mask(a, b, MOA_FCMP_##name)
#define MOA_FCMP_lt _CMP_LT_OQ
#define MOA_FCMP_le _CMP_LE_OQ
#define MOA_FCMP_gt _CMP_GT_OQ
#define MOA_FCMP_ge _CMP_GE_OQ
#define MOA_FCMP_eq _CMP_EQ_OQ
#define MOA_FCMP_ne _CMP_NEQ_UQ
#define MOA_WCMP(name, op, a, b) _mm512_cmp_EPI_mask((__m512i)(a), (__m512i)(b), MOA_WCMP_##name)
#define MOA_WCMP_lt _MM_CMPINT_LT
#define MOA_WCMP_le _MM_CMPINT_LE
#define MOA_WCMP_gt _MM_CMPINT_NLE
#define MOA_WCMP_ge _MM_CMPINT_NLT
#define MOA_WCMP_eq _MM_CMPINT_EQ
#define MOA_WCMP_ne _MM_CMPINT_NE
#define MOA_SELECT(m, a, b) _mm512_mask_blend_PS(m, b, a)
#define MOA_WSELECT(m, a, b) ((moa_w)_mm512_mask_blend_EPI(m, (__m512i)(b), (__m512i)(a)))
#define MOA_WMIN(a, b) ((moa_w)_mm512_min_EPI((__m512i)(a), (__m512i)(b)))
#define MOA_WMAX(a, b) ((moa_w)_mm512_max_EPI((__m512i)(a), (__m512i)(b)))
#define MOA_FMAX(a, b) _mm512_max_PS(a, b)
#define MOA_FMIN(a, b) _mm512_min_PS(a, b)
#define MOA_FMA(a, b, c) _mm512_fmadd_PS(a, b, c)
#define MOA_SQRT(a) _mm512_sqrt_PS(a)
#define MOA_ROUND(a) _mm512_roundscale_PS(a, 8)
#define MOA_FLOOR(a) _mm512_roundscale_PS(a, 9)
#define MOA_FRACTION(x) _mm512_reduce_PS(x, 9)
#define MOA_SCALE(x, n) _mm512_scalef_PS(x, n)
#define MOA_LOADM(p, i, m) _mm512_maskz_loadu_PS(m, (p) + (i) * LANE)
#define MOA_STOREM(p, i, x, m) _mm512_mask_storeu_PS((p) + (i) * LANE, m, x)
#define MOA_LANE(m, k) ((m) >> (k) & 1)
#define MOA_TEST(bytes) MOA_WCMP(ne, !=, __builtin_convertvector(bytes, moa_w), (moa_w){0})
#define MOA_TEST_8(name, p, i, x, m) \
    _mm512_mask_cmp_epi64_mask((__mmask8)(m), \
        _mm512_maskz_loadu_epi64((__mmask8)(m), (const void *)((p) + (i) * 8)), _mm512_set1_epi64(x), MOA_WCMP_##name)
#define MOA_TEST_i64(name, op, p, i, x, m) \
    ((moa_m)(MOA_TEST_8(name, p, i, x, m) | (WIDTH > 8 ? MOA_TEST_8(name, p, (i) + 8, x, (m) >> 8) << 8 : 0)))
#define MOA_SET(m, k) m = (moa_m)(m | (moa_m)(1u << (k)))
#else
typedef moa_w moa_m;
#define MOA_TRUE (~(moa_w){0})
#define MOA_FALSE ((moa_w){0})
#define MOA_NOT(m) (~(m))
#define MOA_AND(a, b) ((a) & (b))
#define MOA_OR(a, b) ((a) | (b))
#define MOA_FIRST(n) (MOA_LANES < MOA_WSPLAT((moa_n)((n) < 0 ? 0 : (n) > WIDTH ? WIDTH : (n))))
#define MOA_BSPLAT(b) MOA_WSPLAT((moa_n)-(moa_n)(b))
#define MOA_FCMP(name, op, a, b) ((moa_m)((a) op (b)))
#define MOA_WCMP(name, op, a, b) ((moa_m)((a) op (b)))
#define MOA_WSELECT(m, a, b) (((m) & (a)) | (~(m) & (b)))
#define MOA_WMIN(a, b) MOA_WSELECT((moa_w)((a) < (b)), a, b)
#define MOA_WMAX(a, b) MOA_WSELECT((moa_w)((a) > (b)), a, b)
#define MOA_LANE(m, k) ((m)[k] != 0)
#define MOA_TEST(bytes) ((moa_m)(__builtin_convertvector(bytes, moa_w) != 0))
#define MOA_TEST_i64(name, op, p, i, x, m) MOA_TEST_EACH(int64_t, op, p, i, x, m)
#define MOA_SET(m, k) m[k] = -1
#endif

#define MOA_TEST_u8(name, op, p, i, x, m) MOA_TEST_EACH(uint8_t, op, p, i, x, m)
#define MOA_TEST_EACH(element, op, p, i, x, m) __extension__({ \
    const moa_m m_ = (m); const element *a_ = (const element *)(const void *)((p) + (i) * (int64_t)sizeof(element)); \
    moa_m r_ = MOA_FALSE; for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m_, k_) && a_[k_] op (x)) MOA_SET(r_, k_); \
    r_; })

#if defined(__AVX__) && MOA_BYTES == 32
#define MOA_SELECT(m, a, b) _mm256_blendv_PS(b, a, (M256)(m))
#define MOA_FMAX(a, b) _mm256_max_PS(a, b)
#define MOA_FMIN(a, b) _mm256_min_PS(a, b)
#define MOA_SQRT(a) _mm256_sqrt_PS(a)
#define MOA_ROUND(a) _mm256_round_PS(a, 8)
#define MOA_FLOOR(a) _mm256_floor_PS(a)
#define MOA_LOADM(p, i, m) _mm256_maskload_PS((const FLOAT *)(const void *)((p) + (i) * LANE), (__m256i)(m))
#define MOA_STOREM(p, i, x, m) _mm256_maskstore_PS((FLOAT *)(void *)((p) + (i) * LANE), (__m256i)(m), x)
#if defined(__FMA__)
#define MOA_FMA(a, b, c) _mm256_fmadd_PS(a, b, c)
#endif
#elif defined(__SSE2__) && MOA_BYTES == 16
#define MOA_FMAX(a, b) _mm_max_PS(a, b)
#define MOA_FMIN(a, b) _mm_min_PS(a, b)
#define MOA_SQRT(a) _mm_sqrt_PS(a)
#if defined(__SSE4_1__)
#define MOA_ROUND(a) _mm_round_PS(a, 8)
#define MOA_FLOOR(a) _mm_floor_PS(a)
#endif
#if defined(__FMA__)
#define MOA_FMA(a, b, c) _mm_fmadd_PS(a, b, c)
#endif
#elif defined(__aarch64__) && MOA_BYTES == 16
#define MOA_FMA(a, b, c) ((moa_v)vfmaq_NEON((NEONV)(c), (NEONV)(a), (NEONV)(b)))
#define MOA_SQRT(a) ((moa_v)vsqrtq_NEON((NEONV)(a)))
#define MOA_ROUND(a) ((moa_v)vrndnq_NEON((NEONV)(a)))
#define MOA_FLOOR(a) ((moa_v)vrndmq_NEON((NEONV)(a)))
#endif

#if !defined(MOA_SELECT)
#define MOA_SELECT(m, a, b) ((moa_v)(((m) & (moa_w)(a)) | (~(m) & (moa_w)(b))))
#endif
#if !defined(MOA_FMAX)
#define MOA_FMAX(a, b) MOA_SELECT((moa_w)((a) > (b)), a, b)
#define MOA_FMIN(a, b) MOA_SELECT((moa_w)((a) < (b)), a, b)
#endif
#if !defined(MOA_FMA)
#define MOA_FMA(a, b, c) MOA_EACH(__builtin_fmaSUFFIX, (a)[k_], (b)[k_], (c)[k_])
#endif
#if !defined(MOA_SQRT)
#define MOA_SQRT(a) MOA_EACH(__builtin_sqrtSUFFIX, (a)[k_])
#endif
#if !defined(MOA_ROUND)
#define MOA_ROUND(a) MOA_EACH(__builtin_rintSUFFIX, (a)[k_])
#define MOA_FLOOR(a) MOA_EACH(__builtin_floorSUFFIX, (a)[k_])
#endif
#if !defined(MOA_LOADM)
#define MOA_LOADM(p, i, m) MOA_LOADM_AS(moa_EL, p, i, m)
#define MOA_STOREM(p, i, x, m) MOA_STOREM_AS(moa_EL, p, i, x, m)
#endif
/* masked elements of another type than moa_f, one after the other; `from` and `to` convert them */
#define MOA_LOADM_BY(from, type, p, i, m) __extension__({ \
    moa_v r_ = {0}; \
    for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m, k_)) r_[k_] = (moa_f)from(MOA_AT(type, p, (i) + k_)); \
    r_; })
#define MOA_STOREM_BY(to, type, p, i, x, m) __extension__({ \
    const moa_v x_ = (x); \
    for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m, k_)) MOA_AT(type, p, (i) + k_) = to(x_[k_]); \
    (void)0; })
#define MOA_LOADM_AS(type, p, i, m) MOA_LOADM_BY(, type, p, i, m)
#define MOA_STOREM_AS(type, p, i, x, m) MOA_STOREM_BY((type), type, p, i, x, m)
#define MOA_LOADB(p, i, m) __extension__({ \
    moa_vu8 r_ = {0}; \
    for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m, k_)) r_[k_] = MOA_AT(moa_u8, p, (i) + k_); \
    r_; })
#define MOA_STOREB(p, i, x, m) __extension__({ \
    const moa_m x_ = (x); \
    for (int k_ = 0; k_ < WIDTH; k_++) if (MOA_LANE(m, k_)) MOA_AT(moa_u8, p, (i) + k_) = MOA_LANE(x_, k_) ? 1 : 0; \
    (void)0; })

#define MOA_FABS(x) ((moa_v)((moa_w)(x) & MOA_WSPLAT((moa_n)~SIGN_BIT)))
#define MOA_FNEG(x) ((moa_v)((moa_w)(x) ^ MOA_WSPLAT((moa_n)SIGN_BIT)))
#define MOA_FMAXN(a, b) __extension__({ \
    const moa_v a_ = (a), b_ = (b), e_ = (moa_v)((moa_w)a_ & (moa_w)b_); \
    const moa_v s_ = MOA_SELECT(MOA_FCMP(eq, ==, a_, b_), e_, MOA_FMAX(a_, b_)); \
    MOA_SELECT(MOA_FCMP(ne, !=, a_, a_), a_, s_); })
#define MOA_FMINN(a, b) __extension__({ \
    const moa_v a_ = (a), b_ = (b), e_ = (moa_v)((moa_w)a_ | (moa_w)b_); \
    const moa_v s_ = MOA_SELECT(MOA_FCMP(eq, ==, a_, b_), e_, MOA_FMIN(a_, b_)); \
    MOA_SELECT(MOA_FCMP(ne, !=, a_, a_), a_, s_); })
#if !defined(MOA_FRACTION)
#define MOA_FRACTION(x) __extension__({ \
    const moa_v x_ = (x), whole_ = MOA_FLOOR(x_), near_ = MOA_FNEG(whole_ - x_), back_ = near_ + whole_; \
    const moa_v down_ = (moa_v)MOA_WADD((moa_w)near_, (moa_w)(back_ > x_)); \
    const moa_v size_ = MOA_FABS(x_); \
    MOA_SELECT(MOA_FCMP(eq, ==, size_, MOA_SPLAT(__builtin_infSUFFIX())), (moa_v){0}, down_); })
#define MOA_POWER(n) ((moa_v)((moa_x)((n) + MOA_SPLAT(MAGIC_BIAS)) << SHIFT))
#define MOA_SCALE(x, n) __extension__({ \
    const moa_v x_ = (x), n_ = (n), low_ = MOA_SPLAT(LOWEST_POWER), high_ = MOA_SPLAT(HIGHEST_POWER); \
    const moa_v above_ = MOA_FMAX(low_, n_), both_ = MOA_FMIN(high_, above_), total_ = MOA_FLOOR(both_); \
    const moa_v half_ = total_ * MOA_SPLAT((moa_f)0.5), first_ = MOA_FLOOR(half_), second_ = total_ - first_; \
    const moa_v y_ = x_ * MOA_POWER(first_) * MOA_POWER(second_); \
    MOA_SELECT(MOA_FCMP(ne, !=, n_, n_), n_, y_); })
#endif
#define MOA_NORMAL(x) MOA_SELECT(MOA_FCMP(lt, <, x, MOA_SPLAT(TINY)), (x) * MOA_SPLAT(LIFT), x)
#define MOA_LOG2(y) ((moa_w)((moa_x)(y) - (moa_x)MOA_WSPLAT((moa_n)START)) >> SHIFT)
#define MOA_MANTISSA(x) __extension__({ \
    const moa_v x_ = (x), large_ = x_ * MOA_SPLAT(LIFT), tiny_ = MOA_SPLAT(TINY); \
    const moa_v y_ = MOA_SELECT(MOA_FCMP(lt, <, x_, tiny_), large_, x_); \
    (moa_v)((moa_x)y_ - ((moa_x)MOA_LOG2(y_) << SHIFT)); })
#define MOA_EXPONENT(x) __extension__({ \
    const moa_v x_ = (x), large_ = x_ * MOA_SPLAT(LIFT), tiny_ = MOA_SPLAT(TINY); \
    const moa_m small_ = MOA_FCMP(lt, <, x_, tiny_); \
    const moa_v y_ = MOA_SELECT(small_, large_, x_), n_ = __builtin_convertvector(MOA_LOG2(y_), moa_v); \
    const moa_v less_ = n_ - MOA_SPLAT((moa_f)SHIFT); \
    MOA_SELECT(small_, less_, n_); })
"""

SHORT_VECTORS = r"""
typedef uint16_t moa_vu16 __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));
#define MOA_FROM_BF16(h) ((moa_v)(__builtin_convertvector(h, moa_x) << 16))
#if defined(MOA_AVX512)
#define MOA_FROM_F16(h) ((moa_v)_mm512_cvtph_ps((__m256i)(h)))
#elif defined(__F16C__) && MOA_BYTES == 32
#define MOA_FROM_F16(h) ((moa_v)_mm256_cvtph_ps((__m128i)(h)))
#else
#define MOA_FROM_F16(h) __extension__({ \
    const moa_x all_ = __builtin_convertvector(h, moa_x), size_ = all_ & 0x7fffu, moved_ = size_ << 13; \
    const moa_x finite_ = (moa_x)((moa_v)moved_ * 0x1p112f), quiet_ = (moa_x)(size_ > 0x7c00u) & 0x400000u; \
    const moa_x large_ = (moa_x)(size_ >= 0x7c00u), sign_ = (all_ & 0x8000u) << 16; \
    (moa_v)(sign_ | (large_ & (moved_ | 0x7f800000u | quiet_)) | (~large_ & finite_)); })
#endif
"""
"""Loads of 16-bit floats as vectors of float."""

AVX512 = "#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)\n#define MOA_AVX512 1\n#endif\n"

DTYPES = {
    "f32": {
        "FLOAT": "float", "UINT": "uint32_t", "INT": "int32_t", "SUFFIX": "f", "PS": "ps", "EPI": "epi32",
        "M256": "__m256", "M128": "__m128",
        "WIDER": "_mm512_castps256_ps512", "BOTH": "_mm512_insertf32x8",
        "LOWHALF": "_mm512_castps512_ps256", "HIGHHALF": "_mm512_extractf32x8_ps",
        "LOWQUARTER": "_mm256_castps256_ps128", "HIGHQUARTER": "_mm256_extractf128_ps",
        "NEONV": "float32x4_t", "NEON": "f32", "LANE": "4", "SHIFT": "23", "EL": "f32",
        "MAGIC_BIAS": "0x1.8p23f + 127.0f", "LOWEST_POWER": "-252.0f", "HIGHEST_POWER": "254.0f",
        "START": "0x3f400000", "TINY": "0x1p-126f", "LIFT": "0x1p23f", "SIGN_BIT": "0x80000000u",
    },
    "f64": {
        "FLOAT": "double", "UINT": "uint64_t", "INT": "int64_t", "SUFFIX": "", "PS": "pd", "EPI": "epi64",
        "M256": "__m256d", "M128": "__m128d",
        "WIDER": "_mm512_castpd256_pd512", "BOTH": "_mm512_insertf64x4",
        "LOWHALF": "_mm512_castpd512_pd256", "HIGHHALF": "_mm512_extractf64x4_pd",
        "LOWQUARTER": "_mm256_castpd256_pd128", "HIGHQUARTER": "_mm256_extractf128_pd",
        "NEONV": "float64x2_t", "NEON": "f64", "LANE": "8", "SHIFT": "52", "EL": "f64",
        "MAGIC_BIAS": "0x1.8p52 + 1023.0", "LOWEST_POWER": "-2044.0", "HIGHEST_POWER": "2046.0",
        "START": "INT64_C(0x3fe8000000000000)", "TINY": "0x1p-1022", "LIFT": "0x1p52",
        "SIGN_BIT": "UINT64_C(0x8000000000000000)",
    },
}  # fmt: skip


def filled(text: str, words: dict[str, str]) -> str:
    """The text with every word of capitals that is a key replaced by its value."""
    pattern = re.compile(rf"(?<!MOA_)(?<![A-Z])({'|'.join(sorted(words, key=len, reverse=True))})(?![A-Z0-9])")
    return pattern.sub(lambda m: words[m[1]], text)


def scalars(dtype: str, short: bool) -> str:
    """Types and scalar helpers; `short` adds those of 16-bit floats."""
    return filled(SCALARS, DTYPES[dtype]).lstrip("\n") + helpers(dtype, short)


def helpers(dtype: str, short: bool) -> str:
    """The part of `scalars` that is the same in every language of the family, where MOA_HELPER is defined."""
    return filled(HELPERS + (SHORT if short else ""), DTYPES[dtype])


def vectors(dtype: str, width: int) -> str:
    """The macros for vectors of `width` floats."""
    size = int(DTYPES[dtype]["LANE"]) * width
    words = {
        **DTYPES[dtype],
        "BYTES": str(size),
        "WIDTH": str(width),
        "MASK": str(max(width, 8)),
        "ONES": f"{(1 << width) - 1}u",
        "ALL_X": ", ".join(["x"] * width),
        "LANES": ", ".join(map(str, range(width))),
        "LASTLANES": LAST[dtype],
        "STEPS": steps(width),
        "EVERY_OTHER": ", ".join(f"{k | (k + width) << 16:#x}" for k in range(width)),
    }
    short = filled(SHORT_VECTORS + PAIR_VECTORS, words) if dtype == "f32" else ""
    across = ACROSS_VECTORS + sums(width, size // width)
    return (AVX512 if size == 64 else "") + filled(VECTORS + across, words).lstrip("\n") + short
