"""The syntax tree of a text: lark's LALR parser, and one method a grammar rule that builds a node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from moa import ir
from moa.ops import Kind
from moa.parse.mistakes import CONSTANTS, RESERVED, dedent_error, syntax_error
from moa.parse.tables import parser
from moa.text import MoaError, Span

MAX_DEPTH = 100
MAX_DIGITS = 400
KINDS: dict[str, Kind] = {"float": "f", "int": "i", "bool": "b"}
WORD_OF = {
    **{"ρ": "rho", "τ": "tau", "δ": "delta", "ι": "iota", "Φ": "reverse", "⍉": "transpose"},
    **{"ψ": "psi", "△": "take", "▽": "drop", "⧺": "cat", "θ": "rotate"},
}
ASCII_OF = {"×": "*", "÷": "/", "−": "-", "∧": "&", "∨": "|", "≤": "<=", "≥": ">=", "≠": "!=", "⌈": "max", "⌊": "min"}


Node = TypeVar("Node", bound=ir.Expr | ir.SliceItem)

_LOCK = threading.Lock()


@lru_cache(maxsize=1)
def _lark() -> tuple[Any, Any]:
    """The LALR parser and its indenter."""
    from lark import Token
    from lark.indenter import Indenter

    class Lines(Indenter):
        NL_type = "_NL"
        OPEN_PAREN_types = ["LPAR", "LSQB", "LANGLE"]  # noqa: RUF012
        CLOSE_PAREN_types = ["RPAR", "RSQB", "RANGLE"]  # noqa: RUF012
        INDENT_type = "_INDENT"
        DEDENT_type = "_DEDENT"
        tab_len = 8
        joined = False  # in a bare expression line ends mean nothing

        def process(self, stream: Iterator[Token]) -> Iterator[Token]:
            self.paren_level = int(self.joined)
            self.indent_level = [0]
            return self._process(stream)  # type: ignore[no-any-return,no-untyped-call]

    indenter = Lines()
    return parser(indenter), indenter


class Tree:
    """The syntax tree from lark's tree, children first: no recursion."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.depth: dict[int, int] = {}  # of the node with this id; all nodes stay alive in `made` meanwhile

    def run(self, start: str) -> Any:
        """What the rule `start` builds from the text."""
        from lark import UnexpectedInput
        from lark.indenter import DedentError

        parser, indenter = _lark()
        with _LOCK:
            indenter.joined = start == "expression"
            try:
                tree = parser.parse(self.text, start=start)
            except UnexpectedInput as error:
                raise syntax_error(error, self.file, self.text, start) from None
            except DedentError:
                raise dedent_error(self.file, self.text) from None
        made: dict[int, Any] = {}
        rules: dict[str, Callable[..., Any]] = {}
        for node in tree.iter_subtrees():
            rule = rules.setdefault(node.data, getattr(self, node.data))
            children = [made.get(id(c), c) for c in node.children]
            made[id(node)] = rule(self.span(node.meta), children)
        return made[id(tree)]

    def span(self, meta: Any) -> Span:
        if meta.empty:
            return Span(self.file, self.text, 0, 0)
        return Span(self.file, self.text, meta.start_pos, meta.end_pos)

    def token_span(self, token: Any) -> Span:
        return Span(self.file, self.text, token.start_pos, token.end_pos)

    def deep(self, node: Node, *children: Any) -> Node:
        """The node, its depth recorded and bounded."""
        depth = 1 + max((self.depth.get(id(c), 0) for c in children), default=0)
        if depth > MAX_DEPTH:
            message = f"the formula is nested more than {MAX_DEPTH} deep"
            raise MoaError("limit", message, node.span, "name parts of it on lines of their own")
        self.depth[id(node)] = depth
        return node

    # functions

    def program(self, _: Span, children: list[Any]) -> list[ir.Function]:
        return children

    def function(self, span: Span, children: list[Any]) -> ir.Function:
        token, parameters, *body = children
        name = self.defined_name(token)
        for k, s in enumerate(body):
            last = k == len(body) - 1
            if isinstance(s, ir.Return) and not last:
                raise MoaError(
                    "syntax", "nothing may follow return", body[k + 1].span, "remove it, or move return down"
                )
            if last and not isinstance(s, ir.Return):
                message = f"function {name.name} does not end with return"
                raise MoaError("syntax", message, s.span, "add return and the value as the last line")
        return ir.Function(name, parameters, tuple(body), name.span.to(body[-1].span))

    def parameters(self, _: Span, children: list[Any]) -> tuple[ir.Parameter, ...]:
        found = tuple(c for c in children if c is not None)
        seen: set[str] = set()
        for k, p in enumerate(found):
            if p.name.name in seen:
                raise MoaError("name", f"parameter {p.name.name} is there twice", p.name.span, "give one another name")
            seen.add(p.name.name)
            if k and p.default is None and found[k - 1].default is not None:
                message = f"parameter {p.name.name} has no default, but the one before it has"
                raise MoaError("syntax", message, p.span, "put parameters with defaults last")
        return found

    def array_parameter(self, span: Span, children: list[Any]) -> ir.Parameter:
        name, dims, default = children
        return ir.Parameter(self.defined_name(name), dims, "f", default, span)

    def typed_array_parameter(self, span: Span, children: list[Any]) -> ir.Parameter:
        name, kind, dims, default = children
        return ir.Parameter(self.defined_name(name), dims, self.kind(kind), default, span)

    def scalar_parameter(self, span: Span, children: list[Any]) -> ir.Parameter:
        name, kind, default = children
        return ir.Parameter(self.defined_name(name), None, self.kind(kind), default, span)

    def plain_parameter(self, span: Span, children: list[Any]) -> ir.Parameter:
        name, default = children
        return ir.Parameter(self.defined_name(name), None, "", default, span)

    def kind(self, token: Any) -> Kind:
        if token.value not in KINDS:
            hint = "the kinds are float, int and bool"
            raise MoaError("type", f"`{token.value}` is not a kind of element", self.token_span(token), hint)
        return KINDS[token.value]

    def dims(self, span: Span, children: list[Any]) -> tuple[ir.Expr, ...]:
        out = [ir.Name("...", c.span) if isinstance(c, ir.RestItem) else c for c in children]
        one_rest(out)
        return tuple(out)

    def rest(self, span: Span, _: list[Any]) -> ir.RestItem:
        return ir.RestItem(span)

    # statements

    def assign(self, span: Span, children: list[Any]) -> ir.Assign:
        left, right = children
        unpack = len(left) > 1 or isinstance(left[0], ir.Sequence)
        if len(left) == 1 and isinstance(left[0], ir.Sequence):
            left = left[0].items
        value = right[0] if len(right) == 1 else ir.Sequence(right, right[0].span.to(right[-1].span))
        return ir.Assign(tuple(self.target(t) for t in left), unpack, value, span)

    def target(self, node: ir.Expr) -> Any:
        match node:
            case ir.Name(name) if name not in CONSTANTS:
                return node
            case ir.Sequence(items) if items:
                return tuple(self.target(t) for t in items)
            case ir.Subscript():
                hint = "arrays do not change: where or concat make a new one"
            case _:
                hint = "a name, or names joined by commas, stand left of ="
        raise MoaError("syntax", "this cannot be assigned to", node.span, hint)

    def bare(self, _: Span, children: list[Any]) -> NoReturn:
        span = children[0][0].span.to(children[0][-1].span)
        raise MoaError("syntax", "a formula by itself does nothing", span, "name it with =, or return it")

    def values(self, _: Span, children: list[Any]) -> tuple[ir.Expr, ...]:
        *found, comma = children
        if comma is not None and len(found) == 1:
            return (ir.Sequence((found[0],), found[0].span),)
        return tuple(found)

    def expression(self, _: Span, children: list[Any]) -> tuple[ir.Expr, ...]:
        return children[0]  # type: ignore[no-any-return]

    def result(self, span: Span, children: list[Any]) -> ir.Return:
        return ir.Return(children[0], span)

    # operators

    def comparison(self, span: Span, children: list[Any]) -> ir.Compare:
        ops = tuple(ASCII_OF.get(t.value, t.value) for t in children[1::2])
        return self.deep(ir.Compare(ops, tuple(children[0::2]), span), *children[0::2])

    def binary(self, span: Span, children: list[Any]) -> ir.Expr:
        cells = children.pop(2) if len(children) == 4 else None
        left, token, right = children
        op = ASCII_OF.get(token.value, token.value)
        if cells is not None:
            function = ir.Name(f"omega {op}", self.token_span(token))
            return self.deep(ir.Call(function, (cells, left, right), (), span), left, right)
        # a chain a + b + c is walked by a loop, so it does not count as depth
        self.depth[id(left)] = self.depth.get(id(left), 0) - isinstance(left, ir.Binary)
        return self.deep(ir.Binary(op, left, right, span), left, right)

    def infix(self, span: Span, children: list[Any]) -> ir.Expr:
        left, token, cells, right = children
        return self.glyph(span, token, cells, left, right)

    def infix_rho(self, span: Span, children: list[Any]) -> ir.Expr:
        left, token, right = children
        word = "reshape" if token.value == "ρ" else WORD_OF[token.value]
        return self.deep(ir.Binary(word, left, right, span), left, right)

    def prefix(self, span: Span, children: list[Any]) -> ir.Expr:
        token, *cells, operand = children
        return self.glyph(span, token, cells[0] if cells else None, operand)

    def prefix_rho(self, span: Span, children: list[Any]) -> ir.Expr:
        token, operand = children
        return self.deep(ir.Unary(WORD_OF[token.value], operand, span), operand)

    def glyph(self, span: Span, token: Any, cells: ir.Expr | None, *operands: ir.Expr) -> ir.Expr:
        op = WORD_OF.get(token.value) or ASCII_OF.get(token.value, token.value)
        if cells is not None:
            function = ir.Name(f"omega {op}", self.token_span(token))
            return self.deep(ir.Call(function, (cells, *operands), (), span), *operands)
        if len(operands) == 1:
            return self.deep(ir.Unary(op, operands[0], span), *operands)
        return self.deep(ir.Binary(op, operands[0], operands[1], span), *operands)

    def fold_glyph(self, span: Span, children: list[Any]) -> ir.Call:
        token, cells, operand = children
        word = "reduce" if token.value[1] == "/" else "scan"
        function = ir.Name(f"{word} {ASCII_OF.get(token.value[0], token.value[0])}", self.token_span(token))
        args = (operand,) if cells is None else (operand, cells)
        return self.deep(ir.Call(function, args, (), span), operand)

    def inner(self, span: Span, children: list[Any]) -> ir.Call:
        left, token, right = children
        f, g = token.value.split("•")
        name = f"outer {ASCII_OF.get(g, g)}" if not f else f"inner {ASCII_OF.get(f, f)} {ASCII_OF.get(g, g)}"
        return self.deep(ir.Call(ir.Name(name, self.token_span(token)), (left, right), (), span), left, right)

    def power(self, span: Span, children: list[Any]) -> ir.Binary:
        return self.deep(ir.Binary("**", children[0], children[1], span), *children)

    def omega(self, _: Span, children: list[Any]) -> ir.Sequence:
        return children[-1]  # type: ignore[no-any-return]

    # postfix and atoms

    def subscript(self, span: Span, children: list[Any]) -> ir.Subscript:
        array, items = children
        return self.deep(ir.Subscript(array, items, span), array, *items)

    def attribute(self, span: Span, children: list[Any]) -> ir.Transposed:
        array, token = children
        if token.value != "T":
            name = token.value
            hints = {
                "shape": "size(x, axis) is the extent of an axis",
                "size": "size(x) is the number of elements",
                "mT": ".T swaps the last two axes",
            }
            hint = hints.get(name, f"functions stand before their arguments: {name}(x)")
            raise MoaError("syntax", f"there is no attribute `.{name}`", self.token_span(token), hint)
        return self.deep(ir.Transposed(array, span), array)

    def call(self, span: Span, children: list[Any]) -> ir.Call:
        token, *found = children
        args: list[ir.Expr] = []
        keywords: list[tuple[ir.Name, ir.Expr]] = []
        for a in found:
            if isinstance(a, tuple):
                if any(a[0].name == k.name for k, _ in keywords):
                    raise MoaError("syntax", f"argument {a[0].name} is given twice", a[0].span, "remove one")
                keywords.append(a)
            elif a is not None:
                if keywords:
                    raise MoaError("syntax", "a positional argument after one by keyword", a.span, "put it first")
                args.append(a)
        function = ir.Name(self.word(token), self.token_span(token))
        node = ir.Call(function, tuple(args), tuple(keywords), span)
        return self.deep(node, *args, *(v for _, v in keywords))

    def keyword(self, _: Span, children: list[Any]) -> tuple[ir.Name, ir.Expr]:
        return ir.Name(self.word(children[0]), self.token_span(children[0])), children[1]

    def items(self, _: Span, children: list[Any]) -> tuple[Any, ...]:
        return tuple(children[:-1])

    def slice(self, span: Span, children: list[Any]) -> ir.SliceItem:
        parts = [c for c in children if isinstance(c, list)]
        start, stop, step = (p[0] for p in (*parts, [None])[:3])
        return self.deep(ir.SliceItem(start, stop, step, span), start, stop, step)

    def slice_part(self, _: Span, children: list[Any]) -> list[Any]:
        return children

    def new_axis(self, span: Span, _: list[Any]) -> ir.NewAxis:
        return ir.NewAxis(span)

    def name(self, span: Span, children: list[Any]) -> ir.Name:
        return ir.Name(self.word(children[0]), span)

    def number(self, span: Span, children: list[Any]) -> ir.Num:
        return self.literal(children[0])

    def literal(self, token: Any) -> ir.Num:
        text = str(token.value)
        span = self.token_span(token)
        mantissa, _, exponent = text.lower().partition("e")
        if len(mantissa) > MAX_DIGITS or len(exponent) > 5 or abs(int(exponent or "0")) > MAX_DIGITS:
            hint = "float64 ends at about 1.8e308"
            raise MoaError("limit", f"the number has more than {MAX_DIGITS} digits", span, hint)
        return ir.Num(Fraction(text), text.isdigit(), span)

    def group(self, _: Span, children: list[Any]) -> ir.Expr:
        return children[0]  # type: ignore[no-any-return]

    def sequence(self, span: Span, children: list[Any]) -> ir.Sequence:
        items = [self.cell(c) for c in children if c is not None]
        return self.deep(ir.Sequence(tuple(items), span), *items)

    def cell(self, node: Any) -> ir.Expr:
        match getattr(node, "type", ""):
            case "NAME":
                return ir.Name(self.word(node), self.token_span(node))
            case "NUMBER":
                return self.literal(node)
            case _:
                return node  # type: ignore[no-any-return]

    def word(self, token: Any) -> str:
        """The name that a token is; words of Python are refused with their reason."""
        name = str(token.value)
        if name in RESERVED:
            message, hint = RESERVED[name]
            raise MoaError("syntax", message, self.token_span(token), hint)
        return name

    def defined_name(self, token: Any) -> ir.Name:
        if token.value in CONSTANTS:
            raise MoaError("syntax", f"{token.value} cannot be redefined", self.token_span(token), "use another name")
        return ir.Name(self.word(token), self.token_span(token))


def one_rest(dims: list[ir.Expr]) -> None:
    """Raises unless `...` stands at most once, and first."""
    for k, d in enumerate(dims):
        if isinstance(d, ir.Name) and d.name == "..." and k:
            raise MoaError(
                "syntax", "`...` stands first in a shape, and once", d.span, "it is the list of leading axes"
            )
