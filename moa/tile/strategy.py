"""What a machine fixes about tiles: widths, block sizes, how many rows a work item holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strategy:
    """Parameters of the tiler for one variant.

    width       lanes of a vector
    rows        values of the row axis in one work item: a multiple of the width, or 1
    keys        steps of a loop over a reduced axis that are in scratch at a time
    block       rows of a register block of a statement that reduces inside
    map_block   rows of a register block of elementwise statements: their coefficients want registers too
    granule     ranges of a domain are cut at multiples of this
    warps       that share a work item, of `width` threads each; 0 where one thread does all of it
    staged      operands of products that are the same in all lanes are copied to scratch first
    stored      equations that are arrays in memory although each phase could make them again
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
    short: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.rows == 1 or self.rows % self.width == 0, self
        assert self.keys % self.width == 0, self
