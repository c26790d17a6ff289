"""The sums of the lanes of several vectors as C macros, one for each number of vectors.

Where there are instructions for shorter vectors the halves of each are added first; otherwise all steps are on whole
vectors.
"""

from __future__ import annotations

from moa.backends.lane_sums import halvings, ordered, summed

HALVES = r"""
#if defined(MOA_AVX512)
typedef moa_n moa_whalf __attribute__((vector_size(BYTES / 2)));
#define MOA_FOLD(v) __extension__({ const moa_v v_ = (v); LOWHALF(v_) + HIGHHALF(v_, 1); })
#if defined(__clang__)
#define MOA_SHUFFLE_HALVES(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MOA_SHUFFLE_HALVES(a, b, ...) __builtin_shuffle(a, b, (moa_whalf){__VA_ARGS__})
#endif
"""


def sums(width: int, size: int) -> str:
    """The macros MOA_SUMS_4, .. up to the width: lane k is the sum of the lanes of operand k."""
    whole, folds = macros(width, size, 0), halvings(width, size)
    return f"{HALVES}{macros(width, size, folds)}#else\n{whole}#endif\n" if folds else whole


def macros(width: int, size: int, folds: int) -> str:
    return "".join(macro(n, width, size, folds) for n in (4, 8, 16) if n <= width)


def macro(count: int, width: int, size: int, folds: int) -> str:
    kind, shuffle = ("M256", "MOA_SHUFFLE_HALVES") if folds else ("moa_v", "MOA_SHUFFLE_TWO")
    lines: list[str] = []

    def named(text: str, kind: str = kind) -> str:
        lines.append(f"const {kind} s{len(lines)}_ = {text};")
        return f"s{len(lines) - 1}_"

    def fold(v: str, _: int) -> str:
        return named(f"MOA_FOLD({v})")

    def join(a: str, b: str, _: int, *taken: list[int]) -> str:
        return named(" + ".join(f"{shuffle}({a}, {b}, {', '.join(map(str, x))})" for x in taken))

    given = [named(f"(x{k})", "moa_v") for k in range(count)]
    found = summed([given[k] for k in ordered(count, width, size, folds)], width, size, folds, fold, join)
    lower = f"(moa_v)WIDER({found[0]})" if folds else found[0]
    lines.append(lower + ";" if len(found) == 1 else f"(moa_v)BOTH({lower}, {found[1]}, 1);")
    params, body = ", ".join(f"x{k}" for k in range(count)), " \\\n    ".join(lines)
    return f"#define MOA_SUMS_{count}({params}) __extension__({{ \\\n    {body} }})\n"
