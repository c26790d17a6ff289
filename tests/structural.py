"""Random structural programs: compositions of the operators that psi removes, with gathers, choices and reductions."""

from __future__ import annotations

import math
from itertools import permutations

from programs import Case, Choose, Param

from moa import ir
from moa.check import check
from moa.oracle import bind, evaluate
from moa.parse import parse
from moa.text import MoaError

INPUTS = (
    Param("w", (), "i", "small"),
    Param("X", ("n", "m")),
    Param("Y", ("n", "m")),
    Param("Z", ("m", "d")),
    Param("A", ("12", "m")),
    Param("B", ("n", "m", "d")),
    Param("v", ("n",)),
    Param("idx", ("r",), "i", "index:n"),
)
SIZES = ({"n": 4, "m": 6, "d": 2, "r": 3}, {"n": 8, "m": 4, "d": 5, "r": 2}, {"n": 6, "m": 10, "d": 3, "r": 5})
MAX_RANK, MAX_ELEMENTS = 4, 4000


def structural(choose: Choose, lines: int = 6) -> Case:
    """A program of up to that many lines, each an operator on earlier values; it passes `check` and its obligations."""
    sizes = choose(SIZES)
    seed = choose(range(1000))
    done: list[str] = []
    shapes: dict[str, ir.Shape] = {}
    for p in INPUTS:
        if p.axes and p.kind == "f":
            shapes[p.name] = typed(case((f"return {p.name}",), sizes, seed))[1]
    for _ in range(choose(range(1, lines + 1))):
        name = f"y{len(done)}"
        line = f"{name} = {operation(choose, shapes, sizes)}"
        try:
            c = case((*done, line, f"return {name}"), sizes, seed)
            program, shape = typed(c)
            values = bind(program, c.arrays())
            elements = math.prod(evaluate(e, values) for e in shape)
        except MoaError:
            continue
        if len(shape) <= MAX_RANK and 0 < elements <= MAX_ELEMENTS:
            done.append(line)
            shapes[name] = shape
    last = [k for k in shapes if k.startswith("y")] or ["X"]
    wanted = last[-1:] if len(last) < 2 or choose((True, True, False)) else last[-2:]
    return case((*done, f"return {', '.join(wanted)}"), sizes, seed)


def case(lines: tuple[str, ...], sizes: dict[str, int], seed: int) -> Case:
    text = f"def f({', '.join(p.text() for p in INPUTS)}):\n" + "\n".join(f"    {x}" for x in lines) + "\n"
    return Case(text, INPUTS, sizes, "plain", seed)


def typed(c: Case) -> tuple[ir.Program, ir.Shape]:
    program = check(parse(c.text, "<random>"), 0)
    return program, program.values[program.outputs[-1]].shape


def operation(choose: Choose, shapes: dict[str, ir.Shape], sizes: dict[str, int]) -> str:
    """One operator on values chosen among those that are there, the last ones more often."""
    names = list(shapes)
    x = choose((names[-1], names[-1], *names))
    y = choose(names)
    s = shapes[x]
    rank = len(s)
    axis = choose(range(rank)) if rank else 0
    pad = ":, " * axis
    k = choose(("1", "2", "-1", "-2", "3", "w", "-w"))
    kind = choose(
        ("transpose", "reverse", "rotate", "take", "drop", "stride", "slice", "reshape", "cat", "gather", "where",
         "matmul", "reduce", "add", "index", "new", "outer", "scale", "transpose", "reshape", "cat")
    )  # fmt: skip
    match kind:
        case "transpose":
            order = choose(list(permutations(range(rank)))) if rank else ()
            return choose((f"transpose({x}, [{', '.join(map(str, order))}])", f"{x}.T", f"⍉ {x}"))
        case "reverse":
            return f"reverse({x}, axis={axis})"
        case "rotate":
            return f"rotate({x}, {choose((k, '7', '-5', 'n', '13', 'm'))}, axis={axis})"
        case "take":
            return f"take({x}, {choose((k, 'n', 'm', 'd'))}, axis={axis})"
        case "drop":
            return f"drop({x}, {k}, axis={axis})"
        case "stride":
            return f"{x}[{pad}{choose(('::2', '::-1', '::-2', '1::3', ':0:-1', '-1::-3'))}]"
        case "slice":
            return f"{x}[{pad}{choose(('1:', ':-1', '1:-1', '1:3', '-3:-1', ':w'))}]"
        case "index":
            return f"{x}[{pad}{choose(('0', '1', '-1', 'w - 1'))}]"
        case "new":
            return f"{x}[{pad}None]"
        case "reshape":
            e = [f"({t})" for t in s]
            if not e:
                return f"reshape({x}, [1])"
            cut = choose(range(len(e)))
            joined = [*e[:cut], " * ".join(e[cut : cut + 2]), *e[cut + 2 :]]
            halves = [*e[:axis], f"{e[axis]} // 2", "2", *e[axis + 1 :]]
            twos = [*e[:axis], "2", f"{e[axis]} // 2", *e[axis + 1 :]]
            shape = choose((joined, halves, twos, e[::-1], [" * ".join(e)], ["-1", e[0]], ["n", "-1"], ["3", "-1"]))
            return f"reshape({x}, [{', '.join(shape)}])"
        case "cat":
            return f"concat({x}, {choose((x, f'2 * {x}', y))}, axis={axis})"
        case "gather":
            return choose(("X[idx]", "v[idx]", f"{x}[{pad}idx]", f"{x}[idx]"))
        case "where":
            i = f"iota(size({x}, {axis}))[:{', None' * (rank - 1 - axis)}]" if rank else "1"
            c = choose((f"{i} < 2", f"{i} % 2 == 0", f"{x} > 0", f"{i} >= w", f"({i} > 0) & ({x} < 1)"))
            return f"where({c}, {x}, {choose(('0', f'-{x}', y))})"
        case "matmul":
            return choose((f"{x} @ {y}", f"{x} @ {y}.T", f"{x}.T @ {y}", f"{x} @ {x}.T"))
        case "reduce":
            f = choose(("sum", "max", "min", "sum"))
            return f"{f}({x}, axis={axis}{choose(('', ', keepdims=True'))})"
        case "outer":
            return choose((f"{x} •× {y}", f"{x}[..., None] - {y}", f"{x}[:, None] * {y}"))
        case "scale":
            return choose((f"2 * {x}", f"{x} * {x}", f"-{x}", f"abs({x})"))
        case _:
            return choose((f"{x} + {y}", f"{x} - {y}", f"maximum({x}, {y})", f"{x} + {x}"))
