"""What a machine fixes about tiles: widths, block sizes, how many rows a work item holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Strategy:
    """Parameters of the tiler for one variant.

    width       lanes of a vector
    rows        values of the row axis in one work item: a multiple of the width, which are the lanes, or fewer than
                twice the width, with lanes along other axes
    keys        steps of a loop over a reduced axis that are in scratch at a time
    block       rows of a register block of a statement that reduces inside
    map_block   rows of a register block of elementwise statements: their coefficients want registers too
    granule     ranges of a domain are cut at multiples of this
    warps       that share a work item, of `width` threads each; 0 where one thread does all of it
    row         which axis is the row, of those whose values share the most loads: 0 the innermost, 1 the next, ..
    inverses    host scalars are more precise than what is computed: inside loops one divides by multiplying
    staged      operands of products that are the same in all lanes are copied to scratch first
    stored      equations that are arrays in memory although each phase could make them again
    pairs       of bfloat16 are multiplied in one instruction, where float arrays are of it: "exact" only elements of
                arrays, "rounded" also computed factors by elements of arrays, rounded before; "" none
    short       extents that are less than a vector: their axes are no rows where another one serves as well
    """

    width: int
    rows: int
    keys: int
    block: int = 4
    map_block: int = 2
    granule: int = 4
    warps: int = 0
    staged: bool = False
    row: int = 0
    inverses: bool = False
    short: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    pairs: Literal["", "exact", "rounded"] = ""

    def __post_init__(self) -> None:
        assert self.rows < 2 * self.width or self.rows % self.width == 0, self
        assert self.keys % self.width == 0, self

    @property
    def rows_in_lanes(self) -> bool:
        return self.rows % self.width == 0

    @property
    def row_block(self) -> int:
        """How many rows are in a register block where they are not the lanes: without a rest, if that can be."""
        if self.rows > self.width:
            return 4
        return next((k for k in range(8, 2, -1) if self.rows % k == 0), min(self.rows, 4))
