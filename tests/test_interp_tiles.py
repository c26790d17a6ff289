"""The meaning of Tiles: what it computes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, Param, listed

from moa.interp.tiles import combined, reduced, run
from moa.normal import Scalar, at_least_zero, choose, lit, load
from moa.poly import Poly, const, var
from moa.tile import Strategy
from moa.tiles import Array, Loop, Map, Nest, Phase, Tile, TileAxis, Tiles, TileStmt, When, statements

CAUSAL = """def f(Q[n, d], K[n, d], V[n, c]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T, -inf)) @ V
"""
STANDARD = """def f(X[n, d]):
    y = X - mean(X, axis=-1, keepdims=True)
    return y / sqrt(mean(y * y, axis=-1, keepdims=True) + 0.01)
"""
BLOCKS = """def f(Q[n, d], K[n, d], V[n, c], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(i // w == j // w, Q @ K.T, -inf)) @ V, max(Q @ K.T)
"""
COLUMNS = "def f(Q[n, d], K[m, d], W[n, c]):\n    return softmax(Q @ K.T).T @ W\n"
PROGRAMS = {
    "causal": (CAUSAL, "Q[n, d] K[n, d] V[n, c]"),
    "standard": (STANDARD, "X[n, d]"),
    "blocks": (BLOCKS, "Q[n, d] K[n, d] V[n, c]"),
    "columns": (COLUMNS, "Q[n, d] K[m, d] W[n, c]"),
}


def chain(name: str, n: int = 13, m: int = 7) -> Chain:
    text, params = PROGRAMS[name]
    scalars = (Param("w", (), "i", "small"),) if "w: int" in text else ()
    return Chain(Case(text, (*listed(params), *scalars), {"n": n, "m": m, "d": 3, "c": 2}))


@pytest.mark.parametrize("strategy", MINIATURES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("n", [1, 3, 4, 5, 13])
def test_tiles_mean_what_the_oracle_says(name: str, n: int, strategy: Strategy) -> None:
    c = chain(name, n)
    placed = c.place(strategy)
    assert not c.differs(c.tiles(placed), c.expected(), c.normal())


# Broken tiles are refused --------------------------------------------------------------------------------------------


def visit(body: tuple[TileStmt, ...], f: Callable[[TileStmt], TileStmt | None]) -> tuple[TileStmt, ...]:
    """The body with every statement s replaced by f(s), dropped where that is None."""
    out = []
    for s in body:
        match s:
            case Loop():
                s = replace(s, body=visit(s.body, f))
            case When():
                s = replace(s, body=visit(s.body, f), other=visit(s.other, f))
        new = f(s)
        if new is not None:
            out.append(new)
    return tuple(out)


def broken(tiles: Tiles, f: Callable[[TileStmt], TileStmt | None]) -> Tiles:
    out = replace(tiles, phases=tuple(replace(p, body=visit(p.body, f)) for p in tiles.phases))
    assert out != tiles
    return out


def without(name: str) -> Callable[[TileStmt], TileStmt | None]:
    """Drops the first statement of each nest that writes an array or tile."""

    def f(s: TileStmt) -> TileStmt | None:
        if not isinstance(s, Nest):
            return s
        kept = tuple(x for x in s.statements if x.target.args[0] != name)
        return replace(s, statements=kept) if kept else None

    return f


def twice(name: str) -> Callable[[TileStmt], TileStmt | None]:
    def f(s: TileStmt) -> TileStmt | None:
        if not isinstance(s, Nest):
            return s
        return replace(
            s, statements=tuple(y for x in s.statements for y in ((x, x) if x.target.args[0] == name else (x,)))
        )

    return f


def shifted(by: int) -> Callable[[TileStmt], TileStmt | None]:
    return lambda s: replace(s, hi=s.hi + by) if isinstance(s, Loop) else s


def in_full_loops(f: Callable[[Loop], Loop]) -> Callable[[TileStmt], TileStmt | None]:
    return lambda s: f(s) if isinstance(s, Loop) and s.kind == "full" else s


MISTAKES: dict[str, tuple[Callable[[TileStmt], TileStmt | None], str]] = {
    "an output that is not stored": (without("out"), "no phase stores out"),
    "an output that is stored twice": (twice("out"), "stores an element of out 2 times"),
    "a state without a start": (without("r2#0"), "read before it is written"),
    "a tile that is not computed": (without("r0"), "read before it is written"),
    "a loop beyond its axis": (shifted(1), "of extent 13|beyond|outside|visited twice"),
    "a loop that starts over": (in_full_loops(lambda s: replace(s, lo=const(0), hi=s.hi + 4)), "visited twice"),
}


def run_broken(c: Chain, tiles: Tiles) -> None:
    run(tiles, c.data, c.sizes, c.scalars)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused(mistake: str) -> None:
    f, message = MISTAKES[mistake]
    c = chain("causal")
    tiles = c.place(MINIATURES[0]).tiles
    run_broken(c, tiles)
    with pytest.raises(AssertionError, match=message):
        run_broken(c, broken(tiles, f))


def test_arrays_of_other_shapes_are_refused() -> None:
    c = chain("causal")
    c.data["K"] = c.data["K"][:, :2]
    with pytest.raises(AssertionError, match="K has shape"):
        c.tiles(c.place(MINIATURES[0]))


def copy_tiles(index: Poly, value: Scalar) -> Tiles:
    """out[index] = value for five positions i, written by hand."""
    axes = (TileAxis("i", "item", const(5), 2),)
    nest = Nest((), "i", (Map(load("out", (index,)), value),))
    phase = Phase("p0", ("i",), axes, (Tile("t", ("i",)),), (nest,))
    arrays = (Array("X", "f", (const(5),), "input"), Array("out", "f", (const(5),), "output"))
    return Tiles("copy", (), arrays, (), (phase,))


def test_bounds() -> None:
    x = {"X": np.arange(5.0)}
    i = var("i")
    np.testing.assert_array_equal(run(copy_tiles(i, load("X", (i,))), x, {})["out"], np.arange(5.0))
    np.testing.assert_array_equal(run(copy_tiles(4 - i, load("X", (i,))), x, {})["out"], np.arange(5.0)[::-1])
    with pytest.raises(AssertionError, match="index 5 on axis 0 of 5"):
        run(copy_tiles(i, load("X", (i + 1,))), x, {})
    with pytest.raises(AssertionError, match="a store to out"):
        run(copy_tiles(i + 1, load("X", (i,))), x, {})
    with pytest.raises(AssertionError, match=r"t\[i\] is read before it is written"):
        run(copy_tiles(i, load("t", (i,))), x, {})
    with pytest.raises(AssertionError, match="outside 2 of i"):
        run(copy_tiles(i, load("t", (i + 1,))), x, {})
    with pytest.raises(AssertionError, match="has no value"):
        run(copy_tiles(i, load("X", (var("j"),))), x, {})
    with pytest.raises(AssertionError, match="loaded where this item did not store it"):
        run(copy_tiles(i, load("out", (i,))), x, {})


def test_a_branch_not_taken_may_lie_outside() -> None:
    i = var("i")
    value = choose(at_least_zero(const(3) - i), load("X", (i + 1,)), lit(7))
    np.testing.assert_array_equal(run(copy_tiles(i, value), {"X": np.arange(5.0)}, {})["out"], [1, 2, 3, 4, 7])


def test_references_drop_a_new_nan() -> None:
    x = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(reduced("max_ref", x, 1), [3, -np.inf])
    np.testing.assert_array_equal(reduced("min_ref", x, 1), [1, np.inf])
    assert np.isnan(reduced("max", x, 1)).all()
    old = np.array([np.nan, 1.0])
    np.testing.assert_array_equal(combined("max_ref", old, np.array([2.0, np.nan])), [np.nan, 1])
    np.testing.assert_array_equal(combined("max", old, np.array([2.0, np.nan])), [np.nan, np.nan])
    np.testing.assert_array_equal(reduced("add", np.ones((2, 3, 4)), 2), [12, 12])
    np.testing.assert_array_equal(reduced("mul", np.ones((2, 0)), 1), [1, 1])


def test_statements_are_all_found() -> None:
    c = chain("blocks")
    for strategy in MINIATURES:
        tiles = c.place(strategy).tiles
        targets = {x.target.args[0] for p in tiles.phases for x in statements(p.body)}
        assert set(c.derivation.streamed.outputs) <= targets
