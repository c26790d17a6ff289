"""Integer sets: domains of reductions, the tiles they touch, and what conditions imply.

`affine` says which conditions are sets, `sets` answers questions about them, `ranges` cuts a reduced axis in tiles,
`evaluate` says what the answers are worth at given sizes.
"""

from moa.domains.affine import split
from moa.domains.evaluate import classify, holds, value_of, visited
from moa.domains.ranges import TileRange, tile_hull, tile_ranges
from moa.domains.sets import Frame, TooLong, budget, count, implied, is_empty, simplify

__all__ = [
    "Frame",
    "TileRange",
    "TooLong",
    "budget",
    "classify",
    "count",
    "holds",
    "implied",
    "is_empty",
    "simplify",
    "split",
    "tile_hull",
    "tile_ranges",
    "value_of",
    "visited",
]
