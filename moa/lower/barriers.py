"""Where the warps of a work item have to wait: between a nest that touches an array and one that writes it, either way.

Inside a nest no warp reads what another one writes, so a barrier stands between nests, and only where one is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moa.lower.builder import Builder
from moa.normal import loads
from moa.tiles import Nest, Reduce

ROOM = "#room"
"""Where warps leave their partial results; no tile has that name."""


@dataclass(slots=True)
class Barriers:
    """What was read and written since the last barrier; `on` is False where one thread does everything."""

    on: bool
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def before(self, b: Builder, read: set[str], written: set[str]) -> None:
        """Notes what comes next, with a barrier before it if it meets what was done."""
        if read & self.written or written & (self.read | self.written):
            self.put(b)
        self.read, self.written = self.read | read, self.written | written

    def put(self, b: Builder) -> None:
        """A barrier, unless nothing was done since the last one."""
        if self.on and (self.read or self.written):
            b.here(None, "barrier")
        self.read, self.written = set(), set()


def touched(nest: Nest, joined: bool, join: bool) -> tuple[set[str], set[str]]:
    """(read, written) by a nest, or by what joins the partial results of its warps."""
    read, written = {ROOM} if join else set(), {ROOM} if joined and not join else set()
    for s in nest.statements:
        target, _ = s.target.args
        written.add(target)
        read |= {array for array, _ in loads(s.value)}
        if isinstance(s, Reduce) and not s.fresh:
            read.add(target)
    return read, written
