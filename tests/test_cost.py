"""Cost: formulas out of Tiles, against the elements that work items are seen to touch when Tiles are run by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from chain import in_short, laws

from moa.cost import Cost, cost, flops
from moa.cost.sums import Along, Count, Sum, of, power_sum
from moa.cost.traffic import compulsory, streamed
from moa.kernel import read
from moa.normal import Cond, loads
from moa.pipeline import Derivation, Placed, derive, place
from moa.poly import Atom, Poly, const, maximum, minimum, size, var
from moa.tile import Strategy, tile
from moa.tiles import Loop, Nest, Phase, Reduce, Sift, Tiles, TileStmt, When

ATTENTION = """
def attention(Q[..., n, dk], K[..., m, dk], V[..., m, dv]):
    return softmax(Q @ K.T / sqrt(dk)) @ V
"""
CAUSAL = """
def causal(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V
"""
WINDOW = """
def window(Q[..., n, dk], K[..., n, dk], V[..., n, dv], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (i - j < w), Q @ K.T / sqrt(dk), -inf)) @ V
"""
GQA = """
def gqa(Q[b, g, r, n, dk], K[b, g, m, dk], V[b, g, m, dv]):
    return softmax(Q @ K[:, :, None].T / sqrt(dk)) @ V[:, :, None]
"""
LINEAR = """
def linear(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    A = where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
"""
SINKS = """
def sinks(Q[n, dk], K[n, dk], V[n, dv], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & ((i - j < w) | (j < 3)), Q @ K.T, -inf)) @ V
"""
STRIDED = """
def strided(Q[n, dk], K[n, dk], V[n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((i // 5 - j // 5) % 3 == 0, Q @ K.T, -inf)) @ V
"""
BIAS = """
def bias(Q[n, dk], K[m, dk], V[m, dv], B[n, m], slope[n]):
    return softmax(Q @ K.T + B - slope[:, None]) @ V
"""
ITSELF = """
def itself(X[n, d]):
    return softmax(X @ X.T) @ X
"""
NEIGHBOURS = """
def neighbours(X[n, d]):
    return minimum(X, concat(X[:1], X[:-1], axis=0))
"""
PASSES = """
def passes(X[n, m], Y[m, d]):
    l = sum(exp(X), axis=-1, keepdims=True)
    return tanh(X / l) @ Y
"""
GATHER = """
def gather(X[n, d], idx: int[r]):
    return X[idx] * 2
"""

LENGTHS = """
def lengths(Q[b, n, dk], K[b, n, dk], V[b, n, dv], lengths: int[b]):
    A = where((iota(n) <= iota(n)[:, None]) & (iota(n) < lengths[:, None, None]), (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
"""
PROGRAMS = {
    "attention": ATTENTION, "causal": CAUSAL, "window": WINDOW, "gqa": GQA, "linear": LINEAR, "sinks": SINKS,
    "strided": STRIDED, "bias": BIAS, "itself": ITSELF, "neighbours": NEIGHBOURS, "passes": PASSES,
}  # fmt: skip
SMALL = Strategy(2, 4, 6, 4, 2, 2)
BIG = Strategy(16, 64, 192)


@cache
def derivation(text: str) -> Derivation:
    return derive(read(text, {}).parsed(), 1)


@cache
def placed(text: str, strategy: Strategy = SMALL) -> Placed:
    return place(derivation(text), strategy, "f32", {}, frozenset())


def cost_of(text: str, strategy: Strategy = SMALL, **sizes: int) -> Cost:
    return cost(derivation(text), placed(text, strategy), **sizes)


# Tiles run by hand --------------------------------------------------------------------------------------------------


def number(p: Poly, at: dict[str, int]) -> int:
    def value(a: Atom) -> int:
        match a.kind:
            case "var" | "size" | "int":
                return at[a.name]
            case "div":
                return number(a.args[0], at) // number(a.args[1], at)
            case "min":
                return min(number(x, at) for x in a.args)
            case "max":
                return max(number(x, at) for x in a.args)
            case "abs":
                return abs(number(a.args[0], at))
            case "load":  # all elements of an array of integers are alike
                return at[a.name]
            case "select":
                return number(a.args[1 if holds(a.args[0], at) else 2], at)
        raise AssertionError(a)

    total = p.evaluate(value)
    assert total == int(total)
    return int(total)


def holds(c: Cond, at: dict[str, int]) -> bool:
    match c.op:
        case "true" | "false":
            return c.is_true
        case "ge":
            return number(c.args[0], at) >= 0
        case "eq":
            return number(c.args[0], at) == 0
        case "and":
            return all(holds(x, at) for x in c.args)
        case "or":
            return any(holds(x, at) for x in c.args)
        case "not":
            return not holds(c.args[0], at)
    raise AssertionError(c)


Element = tuple[str, bool, tuple[int, ...]]  # array, whether written, where


def touched(tiles: Tiles, phase: Phase, at: dict[str, int]) -> Iterator[tuple[Element, str]]:
    """Everything one work item touches in memory, with the streamed axis its index depends on."""

    def body(statements: tuple[TileStmt, ...], ranges: dict[str, range]) -> Iterator[tuple[Element, str]]:
        for s in statements:
            match s:
                case Loop():
                    step = phase.axis(s.axis).step
                    lo, hi = number(s.lo, at), number(s.hi, at)
                    for origin in range(lo, hi, step):
                        at[f"{s.axis}@0"] = origin
                        yield from body(s.body, {**ranges, s.axis: range(origin, min(origin + step, hi))})
                case When():
                    yield from body(s.body if holds(s.cond, at) else s.other, ranges)
                case Sift():
                    yield from body((*s.every, *s.some), ranges)
                case Nest():
                    for x in s.statements:
                        found = [(*f, False) for f in loads(x.value)] + [(*x.target.args, True)]
                        if isinstance(x, Reduce) and not x.fresh:
                            found.append((*x.target.args, False))
                        for array, index, write in found:
                            if tiles.array(array) is not None:
                                yield from elements(array, index, write, ranges)

    def elements(
        array: str, index: tuple[Poly, ...], write: bool, ranges: dict[str, range]
    ) -> Iterator[tuple[Element, str]]:
        names = sorted({v for p in index for v in p.vars()})
        stream = [v for v in names if phase.axis(v).role == "loop"]
        shape = [number(e, at) for e in tiles.array(array).shape]  # type: ignore[union-attr]
        for values in itertools.product(*(ranges[v] for v in names)):
            here = {**at, **dict(zip(names, values, strict=True))}
            where = tuple(max(min(number(p, here), e - 1), 0) for p, e in zip(index, shape, strict=True))
            yield (array, write, where), stream[-1] if stream else ""

    ranges: dict[str, range] = {}
    for a in phase.axes:
        if a.role == "whole":
            ranges[a.name] = range(number(a.extent, at))
        elif a.role == "item":
            origin = at[f"{a.name}@0"] if a.step > 1 else at[a.name]
            ranges[a.name] = range(origin, min(origin + a.step, number(a.extent, at)))
    yield from body(phase.body, ranges)


def seen(tiles: Tiles, sizes: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """(words that move, words of inputs and outputs touched at all), by array, counted one by one."""
    moved: dict[str, int] = {}
    all_of_them: set[Element] = set()
    roles = {a.name: a.role for a in tiles.arrays}
    for phase in tiles.phases:
        axes = [phase.axis(v) for v in phase.items]
        for origins in itertools.product(*(range(0, number(a.extent, sizes), a.step) for a in axes)):
            at = dict(sizes)
            for a, origin in zip(axes, origins, strict=True):
                at[f"{a.name}@0" if a.step > 1 else a.name] = origin
            by_stream: dict[str, set[Element]] = {}
            for element, stream in touched(tiles, phase, at):
                by_stream.setdefault(stream, set()).add(element)
            resident = by_stream.pop("", set())
            for part in (resident, *(s - resident for s in by_stream.values())):
                for array, _, _ in part:
                    moved[array] = moved.get(array, 0) + 1
                all_of_them |= part
    kept = {e for e in all_of_them if roles[e[0]] == ("output" if e[1] else "input")}
    return moved, {a: sum(e[0] == a for e in kept) for a in {e[0] for e in kept}}


def agree(tiles: Tiles, several: list[dict[str, int]]) -> None:
    """Counts are what is seen; where they say `at most`, they are not below it."""
    formulas = (streamed(tiles), compulsory(tiles))
    for sizes in several:
        for words, wanted in zip(formulas, seen(tiles, sizes), strict=True):
            for w in words:
                n, right = w.count.value(sizes), wanted.get(w.array, 0)
                assert n == right or (n > right and not w.count.exact), (w.array, n, right, sizes)
            assert wanted.keys() <= {w.array for w in words}


def counted(tiles: Tiles, sizes: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    out = []
    for words in (streamed(tiles), compulsory(tiles)):
        values = {w.array: w.count.value(sizes) for w in words}
        out.append({a: n for a, n in values.items() if n})
    return out[0], out[1]


def sizes_of(text: str) -> list[dict[str, int]]:
    program = derivation(text).program
    names = program.sizes()
    out = []
    for n, m in ((1, 1), (3, 7), (4, 12), (5, 6), (9, 13), (16, 5), (23, 29)):
        values = {"n": n, "m": m, "dk": 3, "dv": 2, "d": 3, "b": 2, "g": 1, "r": 2}
        out.append({s: values.get(s, 2) for s in names})
    integers = [p.name for p in program.inputs if p.kind == "i" and not p.shape]
    return [s | {w: k for w in integers} for s in out for k in ((0, 1, 2, 5, 40) if integers else (0,))]


@pytest.mark.parametrize("name", PROGRAMS)
def test_words_are_those_seen(name: str) -> None:
    tiles = placed(PROGRAMS[name]).tiles
    agree(tiles, sizes_of(PROGRAMS[name]))
    assert all(w.count.exact for w in streamed(tiles))


@pytest.mark.parametrize("name", ["attention", "causal", "window", "gqa", "linear"])
@pytest.mark.parametrize("strategy", [Strategy(2, 1, 4), Strategy(4, 8, 12), Strategy(2, 2, 4, 4, 2, 2)])
def test_words_for_other_tiles(name: str, strategy: Strategy) -> None:
    tiles = placed(PROGRAMS[name], strategy).tiles
    agree(tiles, sizes_of(PROGRAMS[name])[::2])


@pytest.mark.parametrize("name", ["causal", "window", "sinks", "strided"])
def test_tiles_with_a_case_each(name: str) -> None:
    """Ranges that are not intervals: each tile of the streamed axis is empty, full or partial on its own."""
    tiles = placed(PROGRAMS[name], Strategy(2, 4, 4, 4, 2, 4)).tiles
    agree(tiles, sizes_of(PROGRAMS[name]))


@pytest.mark.parametrize("name", ["linear", "lengths"])
@pytest.mark.parametrize("length", [4, 8, 12])
def test_words_of_chunks(name: str, length: int) -> None:
    """Chunks of one, two and three times the rows of an item; where data end the sums, no less than moves."""
    text = PROGRAMS["linear"] if name == "linear" else LENGTHS
    with laws(chunk=in_short(length)):
        d = derive(read(text, {}).parsed(), 0)
    form = next(f for f in d.forms if "chunk" in f.name)
    tiles = tile(form.streamed, SMALL)
    sizes = [s | {"n": n} for s in sizes_of(text)[:1] for n in (1, length - 1, length, 2 * length + 1, 29)]
    if name == "linear":
        agree(tiles, sizes)
        return
    for at in sizes:
        for end in (at["n"], at["n"] // 2, 0):
            agree(tiles, [at | {"lengths": end}])
    at = sizes[-1] | {"lengths": 29}
    bound, moved = counted(tiles, at)[0], seen(tiles, at)[0]
    assert sum(bound.values()) <= 1.25 * sum(moved.values())


# formulas -----------------------------------------------------------------------------------------------------------


def test_flops_are_a_polynomial() -> None:
    b, n, m, dk, dv = map(size, ("batch0", "n", "m", "dk", "dv"))
    assert flops(derivation(ATTENTION).equations) == 2 * b * n * m * (dk + dv) + 6 * b * n * m
    assert flops(derivation(CAUSAL).equations) == 2 * b * n * n * (dk + dv) + 6 * b * n * n


@pytest.mark.parametrize("rows", [16, 64])
def test_streamed_words_of_attention(rows: int) -> None:
    import sympy

    c = cost_of(ATTENTION, Strategy(16, rows, 192))
    b, n, m, dk, dv = (sympy.Symbol(s, integer=True, nonnegative=True) for s in ("batch0", "n", "m", "dk", "dv"))
    wanted = b * (n * (dk + dv) + sympy.ceiling(n / rows) * m * (dk + dv))
    assert sympy.expand(c.formula("streamed_words") - wanted) == 0
    assert sympy.expand(c.formula("compulsory_words") - b * (n + m) * (dk + dv)) == 0
    assert sympy.expand(c.formula("flops") - 2 * b * n * m * (dk + dv + 3)) == 0
    assert sympy.simplify(c.formula("intensity") - c.formula("flops") / wanted) == 0


def test_streamed_words_of_a_triangle() -> None:
    import sympy

    b, n, dk, dv = (sympy.Symbol(s, integer=True, nonnegative=True) for s in ("batch0", "n", "dk", "dv"))
    tiles = sympy.ceiling(n / 64)
    keys = n + 64 * tiles * (tiles - 1) / 2
    formula = cost_of(CAUSAL, BIG).formula("streamed_words")
    assert sympy.expand(formula - b * (dk + dv) * (n + keys)) == 0


def test_heads_that_share_keys_read_them_each() -> None:
    import sympy

    b, g, r, n, m, dk, dv = (
        sympy.Symbol(s, integer=True, nonnegative=True) for s in ("b", "g", "r", "n", "m", "dk", "dv")
    )
    c = cost_of(GQA, BIG)
    wanted = b * g * r * (dk + dv) * (n + sympy.ceiling(n / 64) * m)
    assert sympy.expand(c.formula("streamed_words") - wanted) == 0
    assert sympy.expand(c.formula("compulsory_words") - b * g * (dk + dv) * (r * n + m)) == 0


@pytest.mark.parametrize("name", ["attention", "causal", "window", "linear"])
def test_formulas_and_numbers_agree(name: str) -> None:
    for sizes in sizes_of(PROGRAMS[name])[::3]:
        c = cost_of(PROGRAMS[name], SMALL, **sizes)
        for quantity in ("flops", "compulsory_words", "streamed_words", "scratch_bytes"):
            formula = c.formula(quantity)
            at = {s: sizes[s.name] for s in formula.free_symbols}
            assert formula.subs(at).doit() == c.number(quantity), (quantity, sizes)
        assert c.intensity == c.number("flops") / c.number("streamed_words")


def test_closed_sums() -> None:
    """Sums over tiles, added up one by one."""
    along = Along("i", size("n"), 4)
    t, rows = var("t_i"), var("i#")
    for body in (const(1), t, t * t, t * t * t, rows, t * rows, t * t * rows, minimum(t, const(2)) * rows, rows * rows):
        closed = of(body * size("d"), (), (along,))
        for n in (0, 1, 3, 4, 5, 8, 11):
            origins = range(0, n, 4)
            one_by_one = sum(number(body, {"t_i": k, "i#": min(4, n - origin)}) for k, origin in enumerate(origins))
            assert closed.value({"n": n, "d": 3}) == 3 * one_by_one, (body, n)
    assert not of(t * rows, (), (along,)).sums[0].over
    assert power_sum(2, const(4)).as_int() == 0 + 1 + 4 + 9


def test_a_gather_is_bounded() -> None:
    """Which rows an index array names is not known: the count is an upper bound, and says so."""
    words = {w.array: w.count for w in streamed(placed(GATHER).tiles)}
    assert not words["X"].exact and words["idx"].exact and words["out"].exact
    assert str(words["X"]).startswith("at most")
    sizes = {"n": 50, "r": 7, "d": 3}
    assert words["X"].value(sizes) >= 7 * 3 and words["idx"].value(sizes) == 7


# a wrong count is seen ----------------------------------------------------------------------------------------------


def mutants(body: tuple[TileStmt, ...]) -> Iterator[tuple[TileStmt, ...]]:
    """The body with one thing wrong: a loop that ends early or starts late, a statement dropped."""
    for k, s in enumerate(body):
        if isinstance(s, Loop):
            for wrong in (
                replace(s, hi=s.hi - 1),
                replace(s, lo=s.lo + 1),
                *(replace(s, body=b) for b in mutants(s.body)),
            ):
                yield (*body[:k], wrong, *body[k + 1 :])
        if isinstance(s, Nest):
            for j, x in enumerate(s.statements):
                kept = replace(s, statements=(*s.statements[:j], *s.statements[j + 1 :]))
                if any(a in ("Q", "K", "V", "out") for a, _ in (*loads(x.value), x.target.args)):
                    yield (*body[:k], kept, *body[k + 1 :])


@pytest.mark.parametrize("name", ["attention", "causal", "linear"])
def test_a_wrong_tile_is_seen(name: str) -> None:
    """Counts follow the loops: they change with them, and then differ from those of the right ones."""
    tiles = placed(PROGRAMS[name]).tiles
    (phase,) = tiles.phases
    sizes = {"batch0": 2, "n": 9, "m": 13, "dk": 3, "dv": 2}
    right = counted(tiles, sizes)
    found = 0
    for body in mutants(phase.body):
        wrong = replace(tiles, phases=(replace(phase, body=body),))
        if seen(wrong, sizes)[0] != seen(tiles, sizes)[0]:
            found += 1
            assert counted(wrong, sizes)[0] != right[0]
            assert counted(wrong, sizes)[0] == seen(wrong, sizes)[0]
    assert found >= 4
    narrow = tuple(replace(a, step=2) if a.role == "item" and a.step > 1 else a for a in phase.axes)
    assert counted(replace(tiles, phases=(replace(phase, axes=narrow),)), sizes)[0] != right[0]


@pytest.mark.parametrize("name", ["attention", "causal", "window"])
def test_a_missing_term_is_seen(name: str) -> None:
    tiles = placed(PROGRAMS[name]).tiles
    sizes = {"batch0": 2, "n": 9, "m": 13, "dk": 3, "dv": 2, "w": 5}
    for w in streamed(tiles):
        terms = [s for c in (w.read, w.written) for s in c.sums]
        pieces = [replace(s, factor=Poly({m: c})) for s in terms for m, c in s.factor.terms]
        assert pieces
        for k in range(len(pieces)):
            left = Count(tuple(pieces[:k] + pieces[k + 1 :]))
            assert left.value(sizes) != seen(tiles, sizes)[0][w.array], (w.array, pieces[k])


# what a user sees ---------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    assert str(cost_of(ATTENTION, BIG)).splitlines() == [
        "cost of attention",
        "  flops                                           batch0*m*n*(2*dk + 2*dv + 6)",
        "  compulsory words                                batch0*(dk*m + dk*n + dv*m + dv*n)",
        "  words, memory and the cache of one work item    batch0*(ceil(n/64)*dk*m + ceil(n/64)*dv*m + dk*n + dv*n)",
        "    Q                                             batch0*dk*n",
        "    K                                             ceil(n/64)*batch0*dk*m",
        "    V                                             ceil(n/64)*batch0*dv*m",
        "    out                                           batch0*dv*n",
        "  scratch bytes                                   4096*ceil((256*dk + 256*dv + 53248)/4096)",
        "  passes                                          3 -> 1",
    ]
    numbers = str(cost_of(ATTENTION, BIG, batch0=2, n=4096, m=4096, dk=64, dv=64))
    assert "n = 4096" in numbers.splitlines()[0]
    assert f"{2 * 2 * 4096 * 4096 * 131:,}" in numbers and f"{2 * 128 * (4096 + 64 * 4096):,}" in numbers


def test_levels_make_the_words() -> None:
    c = cost_of(ATTENTION)
    assert len(c.boundaries) == 1 and c.boundaries[0].words == c.streamed_words
    assert [w.array for w in c.boundaries[0].arrays] == ["Q", "K", "V", "out"]
    assert c.passes == (3, 1)


def test_all_sizes_or_none() -> None:
    with pytest.raises(AssertionError, match="no value for m"):
        cost_of(ATTENTION, SMALL, batch0=1, n=3, dk=2, dv=2)
    with pytest.raises(AssertionError, match="has no speed"):
        cost_of(ATTENTION).formula("speed")


def test_texts() -> None:
    n, w = size("n"), size("w")
    assert str(Count((Sum(n * n - 3 * n),))) == "n*(n - 3)"
    assert str(Count((Sum(n * 2, (("t", (n + 3) // 4),), minimum(var("t"), w)),), False)) == (
        "at most 2*n * sum_{t < ceil(n/4)} min(t, w)"
    )
    assert str(Count()) == "0" and str(Count((Sum(maximum(n - w, const(0))),))) == "max(0, n - w)"
