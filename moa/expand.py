"""exp2, exp, log, tanh and erf as arithmetic: polynomials around an exact splitting of the argument.

Coefficients are minimax in relative error (Remez exchange in 140-bit arithmetic); those of float32 were rounded one
after the other from the lowest power on, the others being fitted again each time; those of float64 were rounded.

    EXP2     (2**x - 1) / x on [0, 1]                         2.2e-9 (f32), 1.9e-17 (f64) of 2**x
    EXPM1    (e**r - 1 - r) / r**2, |r| <= 1.0001 ln(2) / 2   1.5e-8, 3.5e-17 of e**r - 1
    LOG      (2 atanh(s) / s - 2) / s**2, |s| <= 1 / 5        2.9e-9, 1.6e-17 of 2 atanh(s) / s, by powers of s**2
    ERF      erf(x) / x - 1, |x| <= 1                         1.3e-8, 3.4e-17 of erf(x) / x, by powers of x**2
    ERFC     -log(1 - erf(x)), 1 <= x <= 4 (f64: 6)           1.2e-8, 1.5e-17 of erf(x)

Largest errors found, in units of the last place of the correct result (`tests/test_expand.py`), denormal results
included: they are rounded once, never flushed.

           f32    f64
    exp2   1.54   1.40
    exp    0.90   0.92
    log    0.89   0.87
    tanh   2.51   2.50
    erf    1.13   1.60
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from moa.loops import Arg, CallFn, Const, Fn, For, If, Loops, Name, Op, Stmt, Type

EXP2 = {
    "f32": (
        0.6931470632553101, 0.24022908508777618, 0.05548618361353874, 0.009673775173723698, 0.0012482289457693696,
        0.00021565970382653177,
    ),
    "f64": (
        0.693147180559946, 0.2402265069590633, 0.055504108665602264, 0.00961812909955064, 0.0013333558629576153,
        0.00015403512309321695, 1.525317506162224e-05, 1.3208367214500765e-06, 1.0253212993273248e-07,
        6.55952699158797e-09, 6.263470315088791e-10,
    ),
}  # fmt: skip

EXPM1 = {
    "f32": (
        0.4999999701976776, 0.16666539013385773, 0.04166775569319725, 0.008367118425667286, 0.0013835499994456768,
    ),
    "f64": (
        0.5000000000000006, 0.16666666666666588, 0.04166666666657674, 0.008333333333389557, 0.0013888888931567036,
        0.00019841269718979732, 2.4801505271629876e-05, 2.7557407577940926e-06, 2.7626038626974827e-07,
        2.5053761047656857e-08,
    ),
}  # fmt: skip

LOG = {
    "f32": (0.666669487953186, 0.3995765745639801, 0.30364498496055603),
    "f64": (
        0.6666666666667268, 0.39999999996176977, 0.285714293928206, 0.22222138684944343, 0.1818634918029595,
        0.15250315921113602, 0.15367270495411864,
    ),
}  # fmt: skip

LOG2_E = 1.4426950408889634
LN2_HIGH = {"f32": 0.693145751953125, "f64": 0.6931471803691238}
"""ln(2) cut so that its product with any exponent is exact."""
LN2_LOW = {"f32": 1.4286068203094173e-06, "f64": 1.9082149292705877e-10}

EXP_RANGE = {"f32": (-104.0, 89.0), "f64": (-746.0, 710.0)}
"""e**x is 0 below and infinite above."""
TANH_RANGE = {"f32": 10.0, "f64": 22.0}
"""tanh(x) is 1 above."""

ERF = {
    "f32": (
        0.12837916612625122, -0.3761262595653534, 0.1128358542919159, -0.026853812858462334, 0.005188327748328447,
        -0.0008010195451788604, 7.85386364441365e-05,
    ),
    "f64": (
        0.12837916709551256, -0.3761263890318352, 0.11283791670944185, -0.026866170643111482, 0.005223977606118476,
        -0.0008548325929318522, 0.00012055293577226669, -1.4924712312363758e-05, 1.6447131743906461e-06,
        -1.6206315362795506e-07, 1.3710988282781948e-08, -7.779484494938698e-10,
    ),
}  # fmt: skip

ERFC = {
    "f32": (
        -0.00018846399325411767, 1.1295802593231201, 0.6332164406776428, 0.10842207074165344, -0.025210320949554443,
        0.004205278120934963, -0.0004414714057929814, 2.1697516785934567e-05,
    ),
    "f64": (
        5.030623016821564e-07, 1.1283740874308619, 0.6366436372262929, 0.10270341434771714, -0.01899013098817028,
        -0.0004106946062021118, 0.001916013890280778, -0.0007707010561160091, 0.00013508757370822713,
        2.024779843324848e-05, -2.281497001449188e-05, 8.664808830597117e-06, -2.135107738695346e-06,
        3.731984854592482e-07, -4.640889367103803e-08, 3.932967966533391e-09, -2.0442299786960895e-10,
        4.926699845147014e-12,
    ),
}  # fmt: skip
ERF_RANGE = {"f32": 4.0, "f64": 6.0}
"""erf(x) is 1 above."""

INFINITY = float("inf")


def expand(loops: Loops) -> Loops:
    """The same Loops without exp2, exp, log, tanh and erf."""
    return replace(loops, functions=tuple(expand_function(f, loops) for f in loops.functions))


def expand_function(f: Fn, loops: Loops) -> Fn:
    expansion = Expansion(loops.dtype, largest_number(f.body, max((p.number for p in f.params), default=0)))
    return replace(f, body=expansion.body(f.body))


def largest_number(body: tuple[Stmt, ...], least: int) -> int:
    """The largest number of a name assigned in body, or `least`."""
    for s in body:
        match s:
            case Op():
                least = max(least, s.result.number if s.result else 0)
            case For():
                names = [s.index, *(n for c in s.carried for n in (c.phi, c.result))]
                least = largest_number(s.body, max(least, *(n.number for n in names)))
            case If():
                least = max([least, *(r.number for r, _, _ in s.results)])
                least = largest_number(s.other, largest_number(s.then, least))
            case CallFn():
                pass
            case _:
                assert_never(s)
    return least


@dataclass(slots=True)
class Expansion:
    """Rewrites the statements of one function; new names are numbered from `number` on."""

    dtype: str
    number: int

    def body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for s in body:
            match s:
                case Op(result=Name() as result, op="exp2" | "exp" | "log" | "tanh" | "erf"):
                    out += Elementary(self, result.type).statements(s, result)
                case Op() | CallFn():
                    out.append(s)
                case For():
                    out.append(replace(s, body=self.body(s.body)))
                case If():
                    out.append(replace(s, then=self.body(s.then), other=self.body(s.other)))
                case _:
                    assert_never(s)
        return tuple(out)


class Elementary:
    """Writes one function on scalars (kind f) or vectors (kind v)."""

    def __init__(self, expansion: Expansion, kind: Type) -> None:
        self.expansion, self.kind, self.dtype = expansion, kind, expansion.dtype
        self.mask: Type = "m" if kind == "v" else "b"
        self.out: list[Op] = []

    def statements(self, s: Op, result: Name) -> list[Op]:
        makers = {"exp2": self.exp2, "exp": self.exp, "log": self.log, "tanh": self.tanh, "erf": self.erf}
        makers[s.op](s.args[0])
        self.out[-1] = replace(self.out[-1], result=result)
        return self.out

    def put(self, op: str, *args: Arg | float, attrs: tuple[Any, ...] = (), type_: Type | None = None) -> Name:
        self.expansion.number += 1
        result = Name(self.expansion.number, type_ or self.kind)
        values = tuple(a if isinstance(a, Name | Const) else Const(a, self.kind) for a in args)
        self.out.append(Op(result, op, values, attrs))
        return result

    def compare(self, a: Arg, relation: str, b: float) -> Name:
        return self.put("fcmp", a, b, attrs=(relation,), type_=self.mask)

    def polynomial(self, x: Arg, coefficients: tuple[float, ...]) -> Arg:
        """sum_k coefficients[k] * x**k by Horner's rule."""
        value: Arg = Const(coefficients[-1], self.kind)
        for c in coefficients[-2::-1]:
            value = self.put("fma", value, x, c)
        return value

    def exp2(self, x: Arg) -> None:
        """2**x = 2**(x - floor(x)) * 2**floor(x). A masked score of -inf gives 0, since fraction(-inf) = 0."""
        self.put("scale", self.polynomial(self.put("fraction", x), (1.0, *EXP2[self.dtype])), x)

    def split(self, x: Arg) -> tuple[Name, Name]:
        """n and r with x = n * ln(2) + r, |r| <= ln(2) / 2."""
        n = self.put("round", self.put("fmul", x, LOG2_E))
        high = self.put("fma", n, -LN2_HIGH[self.dtype], x)
        return n, self.put("fma", n, -LN2_LOW[self.dtype], high)

    def exp(self, x: Arg) -> None:
        """e**x = e**r * 2**n. The clamps keep a NaN, which stands on their right."""
        low, high = EXP_RANGE[self.dtype]
        n, r = self.split(self.put("fmin", high, self.put("fmax", low, x)))
        self.put("scale", self.polynomial(r, (1.0, 1.0, *EXPM1[self.dtype])), n)

    def log(self, x: Arg) -> None:
        """log(x) = e ln(2) + log(1 + f), x = (1 + f) 2**e; with s = f / (2 + f), log(1 + f) = 2 atanh(s).

        It is f - (h - s (h + R)), h = f**2 / 2, R the rest of the series: f, the large part, enters exactly.
        Source: fdlibm, e_log.c (the arrangement)
        """
        e, f = self.put("exponent", x), self.put("fsub", self.put("mantissa", x), 1.0)
        s = self.put("fdiv", f, self.put("fadd", f, 2.0))
        z = self.put("fmul", s, s)
        rest = self.put("fmul", z, self.polynomial(z, LOG[self.dtype]))
        h = self.put("fmul", self.put("fmul", f, 0.5), f)
        small = self.put("fma", e, LN2_LOW[self.dtype], self.put("fmul", s, self.put("fadd", h, rest)))
        value = self.put("fma", e, LN2_HIGH[self.dtype], self.put("fsub", f, self.put("fsub", h, small)))
        finite = self.put("select", self.compare(x, "lt", INFINITY), value, x)
        outside = self.put("select", self.compare(x, "eq", 0.0), -INFINITY, float("nan"))
        self.put("select", self.compare(x, "le", 0.0), outside, finite)

    def erf(self, x: Arg) -> None:
        """erf(x) = x + x p(x**2) up to 1, and 1 - e**-g(|x|) with the sign of x above."""
        size = self.put("fmin", ERF_RANGE[self.dtype], self.put("fabs", x))
        small = self.put("fma", x, self.polynomial(self.put("fmul", x, x), ERF[self.dtype]), x)
        self.exp(self.put("fneg", self.polynomial(size, ERFC[self.dtype])))
        large = self.put("fsub", 1.0, self.out[-1].result or Const(0.0, self.kind))
        signed = self.put("select", self.compare(x, "lt", 0.0), self.put("fneg", large), large)
        self.put("select", self.compare(size, "lt", 1.0), small, signed)

    def tanh(self, x: Arg) -> None:
        """tanh(|x|) = -t / (2 + t), t = e**(-2|x|) - 1, taken without cancellation; the sign of x, of 0 too."""
        size = self.put("fmin", TANH_RANGE[self.dtype], self.put("fabs", x))
        n, r = self.split(self.put("fmul", size, -2.0))
        q = self.put("fma", self.put("fmul", r, r), self.polynomial(r, EXPM1[self.dtype]), r)
        power = self.put("scale", 1.0, n)
        t = self.put("fma", power, q, self.put("fsub", power, 1.0))
        value = self.put("fdiv", t, self.put("fsub", -2.0, t))
        signed = self.put("select", self.compare(x, "lt", 0.0), self.put("fneg", value), value)
        self.put("select", self.compare(x, "eq", 0.0), x, signed)
