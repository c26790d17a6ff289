"""The meaning of a Scalar and of a Cond: NumPy over a box of index values, bounds checked under a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.normal import Cond, Scalar, cond_loads
from moa.ops import OPERATORS
from moa.poly import Atom, Poly

Array = NDArray[Any]
Axes = Mapping[str, Array]
Refs = Mapping[tuple[int, str], Array]
Demand = Callable[[str, tuple[Array, ...], Array], None]  # array, index, mask: what a walk without values reports


class Box:
    """One evaluation: what index variables, arrays, parameters and references are worth, and where it counts.

    axes     per index variable an integer array; all broadcast against each other
    params   sizes, integer and float parameters by name
    mask     where a value is wanted; loads are checked only there, other elements are unspecified
    """

    def __init__(
        self,
        axes: Axes,
        arrays: Mapping[str, Array],
        params: Mapping[str, Any],
        mask: Array,
        refs: Refs,
        dtype: Any,
    ) -> None:
        self.axes, self.arrays, self.params, self.refs, self.dtype = axes, arrays, params, refs, dtype
        self.mask = mask
        self.memo: dict[Any, Any] = {}

    def under(self, c: Array) -> Box:
        """The same box where c holds as well."""
        return Box(self.axes, self.arrays, self.params, self.mask & c, self.refs, self.dtype)

    def poly(self, p: Poly) -> Any:
        return p.evaluate(self.atom)

    def atom(self, a: Atom) -> Any:
        match a.kind:
            case "var":
                return self.axes[a.name]
            case "size" | "int":
                return int(self.params[a.name])
            case "div":
                x, d = self.poly(a.args[0]), self.poly(a.args[1])
                return np.floor_divide(x, np.where(np.asarray(d) == 0, 1, d))
            case "min":
                return np.minimum(self.poly(a.args[0]), self.poly(a.args[1]))
            case "max":
                return np.maximum(self.poly(a.args[0]), self.poly(a.args[1]))
            case "abs":
                return np.abs(self.poly(a.args[0]))
            case "load":
                return self.load(a.name, a.args)
            case _:
                c = self.cond(a.args[0])
                return np.where(c, self.under(c).poly(a.args[1]), self.under(~c).poly(a.args[2]))

    def load(self, array: str, index: tuple[Poly, ...]) -> Any:
        """The elements of an array at an index: out of bounds where the mask holds is an AssertionError."""
        data = self.arrays[array]
        assert data.ndim == len(index), f"{array} has {data.ndim} axes, index {index}"
        at = [np.asarray(self.poly(p)) for p in index]
        safe = []
        for axis, x in enumerate(at):
            extent = data.shape[axis]
            bad = ((x < 0) | (x >= extent)) & self.mask
            if bad.any():
                where = np.broadcast_to(x, np.broadcast_shapes(x.shape, bad.shape))[bad].flat[0]
                raise AssertionError(f"{array}[{', '.join(map(str, index))}]: index {where} on axis {axis} of {extent}")
            safe.append(np.clip(x, 0, extent - 1) if extent else x)
        if any(extent == 0 for extent in data.shape):
            return np.zeros(np.broadcast_shapes(*(x.shape for x in at)), data.dtype)
        return data[tuple(safe)]

    def cond(self, c: Cond) -> Array:
        found = self.memo.get(c)
        if found is None:
            found = self.memo[c] = np.asarray(self._cond(c), dtype=bool)
        return found

    def _cond(self, c: Cond) -> Any:
        match c.op:
            case "true" | "false":
                return np.asarray(c.is_true)
            case "ge":
                return np.asarray(self.poly(c.args[0]) >= 0)
            case "eq":
                return np.asarray(self.poly(c.args[0]) == 0)
            case "and" | "or":  # its conditions on indices guard the loads in the others, in whatever order they stand
                every = c.op == "and"
                out = np.asarray(every)
                for x in c.args:
                    if not cond_loads(x):
                        out = out & self.cond(x) if every else out | self.cond(x)
                box = self.under(out if every else ~out)
                for x in c.args:
                    if cond_loads(x):
                        out = out & box.cond(x) if every else out | box.cond(x)
                return out
            case "not":
                return ~self.cond(c.args[0])
            case "cmp":
                return OPERATORS[c.args[0]].numpy(self.scalar(c.args[1]), self.scalar(c.args[2]))
            case _:
                return self.load(c.args[0], c.args[1])

    def scalar(self, s: Scalar) -> Any:
        found = self.memo.get(s)
        if found is None:
            found = self.memo[s] = self._scalar(s)
        return found

    def _scalar(self, s: Scalar) -> Any:
        match s.op:
            case "lit":
                return np.asarray(float(s.args[0]), self.dtype)
            case "int":
                return np.asarray(self.poly(s.args[0])).astype(self.dtype)
            case "param":
                return np.asarray(self.params[s.args[0]], self.dtype)
            case "load":
                return np.asarray(self.load(s.args[0], s.args[1])).astype(self.dtype, copy=False)
            case "ref":
                return self.refs[(s.args[0], s.args[1])]
            case "select":
                c = self.cond(s.args[0])
                return np.where(c, self.under(c).scalar(s.args[1]), self.under(~c).scalar(s.args[2]))
            case _:
                return OPERATORS[s.op].numpy(*(self.scalar(x) for x in s.args))

    def integer(self, s: Scalar) -> Any:
        """The values of a scalar that is an integer, exactly."""
        match s.op:
            case "lit":
                return np.asarray(int(s.args[0]))
            case "int":
                return np.asarray(self.poly(s.args[0]))
            case "select":
                c = self.cond(s.args[0])
                return np.where(c, self.under(c).integer(s.args[1]), self.under(~c).integer(s.args[2]))
            case _:
                return np.asarray(self.scalar(s)).astype(np.int64)


NO_REFS: Refs = {}


def evaluate(
    s: Scalar | Cond,
    axes: Axes,
    arrays: Mapping[str, Array],
    params: Mapping[str, Any],
    mask: Array | None = None,
    refs: Refs | None = None,
    dtype: Any = np.float64,
) -> Array:
    """The values of a scalar (or condition) over the box its index variables span.

    axes     per index variable an integer array, broadcastable against the others
    params   sizes, integer and float parameters by name; `lowest` where references occur
    mask     elements wanted; the others are unspecified, and their loads unchecked
    refs     {(k, "old" | "new"): values} for a member of a Fold
    Errors: AssertionError naming array and index for a load out of bounds under the mask
    """
    shape = np.broadcast_shapes(*(np.shape(x) for x in axes.values()))
    everywhere = np.ones(shape, bool) if mask is None else np.asarray(mask, bool)
    box = Box(axes, arrays, params, everywhere, NO_REFS if refs is None else refs, np.dtype(dtype))
    with np.errstate(all="ignore"):
        out = np.asarray(box.cond(s) if isinstance(s, Cond) else box.scalar(s))
    return np.broadcast_to(out, np.broadcast_shapes(shape, out.shape))
