"""Loops: explicit instructions in structured SSA. What a backend prints, and nothing it decides.

Every name is assigned once and is visible in the block that assigns it and in the blocks inside that one. `For`
carries values and yields them, `If` returns values; there are no mutable variables. The vector width is a number of
the whole (`Loops.width`), never part of an instruction.

Types: i (64-bit integer), f (float of the compute type), b (bit), v (width floats), w (width integers of the float's
size), m (width bits), p (address).

Instructions (result type <- operand types):

    iadd isub imul imin imax             i <- i i          idiv imod   floor division; the divisor is positive
    iabs                                 i <- i
    icmp                                 b <- i i          attrs (relation,): lt le gt ge eq ne
    band bor bnot                        b <- b (b)        also on m
    wadd wsub wmul wmin wmax             w <- w w
    wcmp                                 m <- w w          attrs (relation,)
    wsplat w<-i    lanes w<- (0, 1, .. width - 1)    first m<-i (lanes below i)    bsplat m<-b    splat v<-f
    fadd fsub fmul fdiv fma fneg fabs fsqrt    f <- f f (f), also on v;  fma(a, b, c) = a * b + c, one rounding
    fmax fmin    a > b ? a : b,  a < b ? a : b   (a NaN in b reaches the result, one in a does not)
    fmaxn fminn                          maximum, minimum that propagate NaN
    fcmp                                 b <- f f, m <- v v   attrs (relation,); every relation but ne is false on NaN
    select                               t <- b t t for scalars; v <- m v v, w <- m w w; v <- b v v
    i2f f<-i       w2v v<-w       f2i i<-f (truncation; saturates, NaN gives 0)
    exp2 exp log tanh                    f <- f, v <- v    expanded to the instructions below by `moa.expand`
    round                                to the nearest integer, ties to even
    scale    f <- f f: x * 2**floor(n), rounded once; n may be infinite or NaN. x is NaN or 2**-100 <= |x| <= 2**100
    fraction f <- f: x - floor(x), rounded down; 0 (of either sign) for integral and infinite x
    mantissa exponent                    f <- f: x = mantissa * 2**exponent, mantissa in [0.75, 1.5), for finite x > 0
    reduce                               f <- v     attrs (operator,): add mul max min maxn minn (NaN as fmax .. fminn);
                                                           lane i with lane i + width / 2, until one is left
    sums                                 v <- v ..      lane k: the sum of the lanes of operand k, as by reduce; of
                                                           2, 4, 8 .. operands; lanes above are of no interest
    insert v<-v f, extract f<-v          attrs (lane,)
    turn                                 v <- v v       attrs (step, half): of pairs of groups of `step` lanes the
                                                           first (half 0) or second one, of both operands in turn
    pick                                 f <- v i: the lane of that number, in a loop over lanes
    pair                                 w <- v v: in each word two bfloat16 numbers, next to both operands, the first
                                                   one's in the low half; for float32
    dot2                                 v <- v w w: of pairs: fma(low, low', fma(high, high', x)), x the first operand.
                                                     In both, numbers below 2**-126 are 0 of their sign: operands, and
                                                     what is rounded on the way
    arg    i, f or p <- ()   attrs (slot,): slot of the packed arguments, 8 bytes each; f is
                                                           stored as a double
    offset                               p <- p i          attrs (element,): address plus i elements
    weave                                w <- w w   attrs (half,): of the bfloat16 numbers of both operands, in a half
                                                    of their words, those at the same place as one word
    load    f, v, i, b, m, w <- p i   attrs (element, aligned): element i of the array at p, or
                                   width of them from there; aligned: the address is width-aligned
    loadm                                v, w <- p i m     masked-off lanes are 0 and are not read
    test                                 m <- p i i m   attrs (element, relation): element i + lane (i64 or u8)
                                   against the third operand; masked-off lanes are not read, and off
    store                                () <- p i x       attrs (element, aligned)
    storem                               () <- p i x m
    prefetch                             () <- p i     attrs (element,): element i may be read soon; it need not exist
    barrier                              () <- (); all warps of the work item wait for one another: only in an entry

Elements: f64 f32 bf16 f16 i64 u8 pair. A float element is converted to the compute type on load and rounded to nearest
even on store. A pair is two neighbours of bf16 as one word, at an address of bf16; as i and w, pair and bf16 are bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Type = Literal["i", "f", "b", "v", "w", "m", "p"]
Element = Literal["f64", "f32", "bf16", "f16", "i64", "u8", "pair"]

ELEMENT_BYTES: dict[str, int] = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "i64": 8, "u8": 1, "pair": 4}


@dataclass(frozen=True, slots=True)
class Name:
    """A value, by its number."""

    number: int
    type: Type

    def __hash__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return f"{self.type}{self.number}"


@dataclass(frozen=True, slots=True)
class Const:
    """A literal of type i, f, b, v (all lanes), w (all lanes) or m (all lanes)."""

    value: int | float | bool
    type: Type

    def __str__(self) -> str:
        return f"{self.value}" if self.type in "ifb" else f"{self.value}:{self.type}"


Arg = Name | Const


@dataclass(frozen=True, slots=True)
class Op:
    result: Name | None
    op: str
    args: tuple[Arg, ...] = ()
    attrs: tuple[Any, ...] = ()

    def __str__(self) -> str:
        left = "" if self.result is None else f"{self.result} = "
        return left + " ".join([self.op + "".join(f".{a}" for a in self.attrs), *map(str, self.args)])


@dataclass(frozen=True, slots=True)
class Carried:
    """A value carried by a loop: `phi` inside, `first` before the first round, `next` after one, `result` outside."""

    phi: Name
    first: Arg
    next: Arg
    result: Name


@dataclass(frozen=True, slots=True)
class For:
    """for index in range(lo, hi, step), in order; step is positive. `hi` is exclusive; lo >= hi means no round.

    on  where rounds may run at once: "warps": round k on warp k of the work item (nothing is carried, lo is 0, step 1);
        "lanes": round k in lane k (lo is 0, hi the width, step 1; round k gives lane k of what is carried)
    """

    index: Name
    lo: Arg
    hi: Arg
    step: Arg
    carried: tuple[Carried, ...]
    body: tuple[Stmt, ...]
    on: Literal["", "warps", "lanes"] = ""


@dataclass(frozen=True, slots=True)
class If:
    """results: (result, its value after `then`, its value after `other`)."""

    cond: Arg
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    results: tuple[tuple[Name, Arg, Arg], ...] = ()


@dataclass(frozen=True, slots=True)
class CallFn:
    """A call of another function of the same Loops; nothing is returned."""

    function: str
    args: tuple[Arg, ...]


Stmt = Op | For | If | CallFn


@dataclass(frozen=True, slots=True)
class Fn:
    """A function. The entry of a phase has the parameters (args p, first item i, last item i, workspace p)."""

    name: str
    params: tuple[Name, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Loops:
    """functions come before their callers; `phases` names the entries, run one after the other."""

    dtype: Literal["f64", "f32"]
    width: int
    functions: tuple[Fn, ...]
    phases: tuple[str, ...]

    def function(self, name: str) -> Fn:
        return next(f for f in self.functions if f.name == name)

    def __str__(self) -> str:
        return "\n\n".join(function_text(f) for f in self.functions)


def longest_block(loops: Loops) -> int:
    """The most instructions that stand in one block without a loop or a choice between them."""

    def longest(body: tuple[Stmt, ...]) -> int:
        best = run = 0
        for s in body:
            if isinstance(s, Op):
                run += 1
                continue
            inner = (s.body,) if isinstance(s, For) else (s.then, s.other) if isinstance(s, If) else ()
            best, run = max(best, run, *map(longest, inner)), 0 if inner else run + 1
        return max(best, run)

    return max((longest(f.body) for f in loops.functions), default=0)


def function_text(f: Fn) -> str:
    return "\n".join([f"fn {f.name}({', '.join(map(str, f.params))}):", *body_text(f.body, 1)])


def body_text(body: tuple[Stmt, ...], depth: int) -> list[str]:
    pad = "  " * depth
    out: list[str] = []
    for s in body:
        match s:
            case Op():
                out.append(pad + str(s))
            case For():
                names = "".join(f" {c.phi} = {c.first} then {c.next} as {c.result};" for c in s.carried)
                on = f" on {s.on}" if s.on else ""
                out.append(f"{pad}for {s.index} in {s.lo} .. {s.hi} step {s.step}{on}:{names}")
                out += body_text(s.body, depth + 1)
            case If():
                names = "".join(f" {r} = {a} or {b};" for r, a, b in s.results)
                out.append(f"{pad}if {s.cond}:{names}")
                out += body_text(s.then, depth + 1)
                if s.other:
                    out.append(f"{pad}else:")
                    out += body_text(s.other, depth + 1)
            case CallFn():
                out.append(f"{pad}{s.function}({', '.join(map(str, s.args))})")
    return out
