"""Reductions of the lanes of a vector as C macros: lane i with lane i + width / 2, until one is left.

Where there are instructions for shorter vectors each step takes half of what the one before it took; an instruction on
64 bytes may take two turns. Otherwise all steps are on whole vectors, and the lanes above are of no interest.
"""

from __future__ import annotations

ACROSS_VECTORS = r"""
#define MOA_ADD(a, b) ((a) + (b))
#define MOA_MUL(a, b) ((a) * (b))
#define MOA_MORE(a, b) ((a) > (b) ? (a) : (b))
#define MOA_LESS(a, b) ((a) < (b) ? (a) : (b))
#define MOA_ACROSS(op, v) __extension__({ moa_v l_ = (v); STEPS l_[0]; })
#if defined(MOA_AVX512)
#define MOA_HALVED(name, op, v) __extension__({ \
    const moa_v l_ = (v); \
    const M256 half_ = _mm256_##name##_PS(LOWHALF(l_), HIGHHALF(l_, 1)); \
    const M128 q_ = _mm_##name##_PS(LOWQUARTER(half_), HIGHQUARTER(half_, 1)); \
    LASTLANES; })
#define MOA_ACROSS_add(v) MOA_HALVED(add, MOA_ADD, v)
#define MOA_ACROSS_mul(v) MOA_HALVED(mul, MOA_MUL, v)
#define MOA_ACROSS_max(v) MOA_HALVED(max, MOA_MORE, v)
#define MOA_ACROSS_min(v) MOA_HALVED(min, MOA_LESS, v)
#else
#define MOA_ACROSS_add(v) MOA_ACROSS(MOA_ADD, v)
#define MOA_ACROSS_mul(v) MOA_ACROSS(MOA_MUL, v)
#define MOA_ACROSS_max(v) MOA_ACROSS(MOA_FMAX, v)
#define MOA_ACROSS_min(v) MOA_ACROSS(MOA_FMIN, v)
#endif
#define MOA_ACROSS_maxn(v) MOA_ACROSS(MOA_FMAXN, v)
#define MOA_ACROSS_minn(v) MOA_ACROSS(MOA_FMINN, v)
"""

LAST = {
    "f32": "const __m128 two_ = _mm_##name##_ps(q_, _mm_movehl_ps(q_, q_)); op(two_[0], two_[1])",
    "f64": "op(q_[0], q_[1])",
}
"""The last lanes of 16 bytes, by type: four or two."""


def steps(width: int) -> str:
    """The statements that reduce `l_` by `op`; a shuffle exchanges lanes in one instruction, without a table."""
    out = []
    step = width // 2
    while step:
        lanes = ", ".join(str(k ^ step) for k in range(width))
        out.append(f"l_ = op(l_, MOA_SHUFFLE(l_, {lanes}));")
        step //= 2
    return " ".join(out)
