"""Testing conditions on data for a whole tile: the least and the greatest of both sides, found once for each.

Those of the rows are found once for a work item, those of the loop's axis once for a tile (or, where a loop starts and
ends, for each of its positions).
"""

from __future__ import annotations

from moa.loops import Arg, Const
from moa.lower.address import Address
from moa.lower.builder import Builder
from moa.normal import Cond
from moa.poly import Poly
from moa.tile.sift import compared

Span = tuple[Arg, Arg]  # the least and the greatest value
FAR = 1 << 62


class Sifting:
    """The tests of one work item, in the function of its phase. `row` is its tiled axis, `env` what is known."""

    def __init__(self, b: Builder, address: Address, row: str | None, env: dict[str, Arg]) -> None:
        self.b, self.address, self.row, self.env = b, address, row, env
        self.rows: dict[Poly, Span] = {}

    def prepare(self, conds: tuple[Cond, ...], axis: str) -> None:
        """Finds what the rows say, where all loops of the work item can read it."""
        for c in conds:
            f, _ = compared(c, axis)
            if f not in self.rows:
                self.rows[f] = self.over(f, self.row) if self.row in f.vars() else (self.value(f),) * 2

    def hull(self, conds: tuple[Cond, ...], axis: str, lo: Arg, hi: Arg) -> tuple[Arg, Arg]:
        """(first, end) of the positions from lo to hi that no condition excludes for all rows."""
        b = self.b
        with b.loop(lo, hi, Const(1, "i"), [hi, b.imin(lo, hi)]) as body:
            excluded: Arg = Const(False, "b")
            for c in conds:
                g = self.value(compared(c, axis)[1], {axis: body.index})
                excluded = b.pure("b", "bor", excluded, self.decided(c, axis, (g, g))[1])
            first = b.pure("i", "select", excluded, hi, body.index)
            end = b.pure("i", "select", excluded, lo, b.iadd(body.index, Const(1, "i")))
            body.next = [b.imin(body.phis[0], first), b.imax(body.phis[1], end)]
        return body.results[0], body.results[1]

    def tests(self, conds: tuple[Cond, ...], axis: str) -> tuple[Arg, Arg]:
        """(whether all conditions are seen to hold everywhere in the tile, whether one is seen to hold nowhere)."""
        b = self.b
        every: Arg = Const(True, "b")
        none: Arg = Const(False, "b")
        spans: dict[Poly, Span] = {}
        for c in conds:
            _, g = compared(c, axis)
            if g not in spans:
                spans[g] = self.over(g, axis) if axis in g.vars() else (self.value(g),) * 2
            all_, no = self.decided(c, axis, spans[g])
            every, none = b.pure("b", "band", every, all_), b.pure("b", "bor", none, no)
        return every, none

    def decided(self, c: Cond, axis: str, g: Span) -> tuple[Arg, Arg]:
        """(whether a condition is seen to hold everywhere, whether it is seen to hold nowhere)."""
        b, zero = self.b, Const(0, "i")
        if c.op == "not":
            every, none = self.decided(c.args[0], axis, g)
            return none, every
        f = self.rows[compared(c, axis)[0]]
        least, most = b.iadd(f[0], g[0]), b.iadd(f[1], g[1])
        match c.op:
            case "ge":
                return b.icmp("ge", least, zero), b.icmp("lt", most, zero)
            case "load":
                return b.icmp("gt", least, zero), b.icmp("le", most, zero)
        assert c.op == "eq", c
        alike = b.pure("b", "band", b.icmp("eq", least, zero), b.icmp("eq", most, zero))
        return alike, b.pure("b", "bor", b.icmp("gt", least, zero), b.icmp("lt", most, zero))

    def over(self, p: Poly, axis: str | None) -> Span:
        """The least and the greatest value over the tile of an axis."""
        assert axis is not None
        b = self.b
        first: list[Arg] = [Const(FAR, "i"), Const(-FAR, "i")]
        with b.loop(Const(0, "i"), self.env[f"{axis}#"], Const(1, "i"), first) as body:
            value = self.value(p, {axis: b.iadd(self.env[f"{axis}@0"], body.index)})
            body.next = [b.imin(body.phis[0], value), b.imax(body.phis[1], value)]
        return body.results[0], body.results[1]

    def value(self, p: Poly, at: dict[str, Arg] | None = None) -> Arg:
        known = self.env if at is None else {**self.env, **at}
        return self.address.poly(p, known.__getitem__)
