"""Every mistake has one message: a malformed program beside the exact text that its author sees."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from moa.check import check
from moa.parse import parse, parse_expression
from moa.text import MoaError

HEAD = "def f(X[n, d], Y[m, d], w: int, c: float, keep: bool[n], idx: int[n]):\n"


def formula(text: str) -> str:
    """A program that returns one formula of arrays X and Y, scalars w and c, a condition and an index."""
    return f"{HEAD}    return {text}\n"


MISTAKES: list[tuple[str, str]] = [
    (
        "",
        "f.moa:1:1: syntax error: the program has no function\n     \n    ^\n  hint: begin with def name(X[n, d]):",
    ),
    (
        "# only a comment\n",
        "f.moa:1:1: syntax error: the program has no function\n"
        "    # only a comment\n"
        "    ^^^^^^^^^^^^^^^^\n"
        "  hint: begin with def name(X[n, d]):",
    ),
    (
        "x = 3\n",
        "f.moa:1:1: syntax error: found `x`, expected def or the end of the text\n"
        "    x = 3\n"
        "    ^\n"
        "  hint: a program is a list of functions: statements stand indented below def name(...):",
    ),
    (
        "def f(X[n])\n    return X\n",
        "f.moa:1:12: syntax error: found the end of the line, expected `:`\n"
        "    def f(X[n]) \n"
        "               ^\n"
        "  hint: end the line of def with `:`",
    ),
    (
        "def f(X[n]):\nreturn X\n",
        "f.moa:2:1: syntax error: found `return`, expected an indented line\n    return X\n    ^^^^^^",
    ),
    (
        "def f(X[n]:\n    return X\n",
        "f.moa:1:6: syntax error: this `(` is never closed\n    def f(X[n]:\n         ^\n  hint: add `)`",
    ),
    (
        "def f(X[n]):\n    return X)\n",
        "f.moa:2:13: syntax error: `)` closes nothing\n        return X)\n                ^\n  hint: remove it",
    ),
    (
        "def f(X[n]):\n    return (X]\n",
        "f.moa:2:14: syntax error: `]` does not close the `(` of line 2, column 12\n"
        "        return (X]\n"
        "                 ^\n"
        "  hint: close it by `)`",
    ),
    (
        "def f(X[n]):\n    y = X\n",
        "f.moa:2:5: syntax error: function f does not end with return\n"
        "        y = X\n"
        "        ^^^^^\n"
        "  hint: add return and the value as the last line",
    ),
    (
        "def f(X[n]):\n    return X\n    y = X\n",
        "f.moa:3:5: syntax error: nothing may follow return\n"
        "        y = X\n"
        "        ^^^^^\n"
        "  hint: remove it, or move return down",
    ),
    (
        "def f(X[n]):\n    X + 1\n    return X\n",
        "f.moa:2:5: syntax error: a formula by itself does nothing\n"
        "        X + 1\n"
        "        ^^^^^\n"
        "  hint: name it with =, or return it",
    ),
    (
        "def f(X[n]):\n    X += 1\n    return X\n",
        "f.moa:2:8: syntax error: found `=`, expected a formula\n"
        "        X += 1\n"
        "           ^\n"
        "  hint: write x = x + y: there is no assignment that combines",
    ),
    (
        "def f(X[n]):\n    X[0] = 1\n    return X\n",
        "f.moa:2:5: syntax error: this cannot be assigned to\n"
        "        X[0] = 1\n"
        "        ^^^^\n"
        "  hint: arrays do not change: where or concat make a new one",
    ),
    (
        "def f(X[n]):\n    1 = X\n    return X\n",
        "f.moa:2:5: syntax error: this cannot be assigned to\n"
        "        1 = X\n"
        "        ^\n"
        "  hint: a name, or names joined by commas, stand left of =",
    ),
    (
        "def f(X[n]):\n    True = X\n    return X\n",
        "f.moa:2:5: syntax error: this cannot be assigned to\n"
        "        True = X\n"
        "        ^^^^\n"
        "  hint: a name, or names joined by commas, stand left of =",
    ),
    (
        "def f(X[n]):\n        y = X\n    return y\n",
        "f.moa:3:5: syntax error: the indentation of this line fits no line above it\n"
        "        return y\n"
        "        ^\n"
        "  hint: align it",
    ),
    (
        "def f(X[n]):\n    y = X\n      return y\n",
        "f.moa:2:10: syntax error: found an indented line, expected a formula, return or the end of the function\n"
        "        y = X \n"
        "             ^\n"
        "  hint: lines of one function have the same indentation",
    ),
    (
        "def f(X[n]) -> int:\n    return X\n",
        "f.moa:1:13: syntax error: found `-`, expected `:`\n"
        "    def f(X[n]) -> int:\n"
        "                ^\n"
        "  hint: results have no annotation: end the line with `:`",
    ),
    (
        "def f(X[n], X[n]):\n    return X\n",
        "f.moa:1:13: name error: parameter X is there twice\n"
        "    def f(X[n], X[n]):\n"
        "                ^\n"
        "  hint: give one another name",
    ),
    (
        "def f(X[n]):\n    return X\ndef f(Y[n]):\n    return Y\n",
        "f.moa:3:5: name error: function f is defined twice\n"
        "    def f(Y[n]):\n"
        "        ^\n"
        "  hint: give one another name",
    ),
    (
        "def f(x=1, y):\n    return x\n",
        "f.moa:1:12: syntax error: parameter y has no default, but the one before it has\n"
        "    def f(x=1, y):\n"
        "               ^\n"
        "  hint: put parameters with defaults last",
    ),
    (
        "def f(X[n, ...]):\n    return X\n",
        "f.moa:1:12: syntax error: `...` stands first in a shape, and once\n"
        "    def f(X[n, ...]):\n"
        "               ^^^\n"
        "  hint: it is the list of leading axes",
    ),
    (
        "def f(x: str):\n    return x\n",
        "f.moa:1:10: type error: `str` is not a kind of element\n"
        "    def f(x: str):\n"
        "             ^^^\n"
        "  hint: the kinds are float, int and bool",
    ),
    (
        "import numpy\n",
        "f.moa:1:1: syntax error: there are no modules\n"
        "    import numpy\n"
        "    ^^^^^^\n"
        "  hint: the functions of the language need no import",
    ),
    (
        "def f(X[n]):\n    for i in X:\n        return i\n",
        "f.moa:2:5: syntax error: there are no loops\n"
        "        for i in X:\n"
        "        ^^^\n"
        "  hint: scan and fold go along an axis; everything else is written on whole arrays",
    ),
    (
        formula("X if w else Y"),
        "f.moa:2:14: syntax error: there is no `if`\n"
        "        return X if w else Y\n"
        "                 ^^\n"
        "  hint: where(condition, a, b) selects element by element",
    ),
    (
        formula("lambda x: x"),
        "f.moa:2:12: syntax error: there is no `lambda`\n"
        "        return lambda x: x\n"
        "               ^^^^^^\n"
        "  hint: write a function with def above this one",
    ),
    (
        formula("X and Y"),
        "f.moa:2:14: syntax error: there is no `and`\n"
        "        return X and Y\n"
        "                 ^^^\n"
        "  hint: `&` joins conditions; put each comparison into parentheses",
    ),
    (
        formula("not keep"),
        "f.moa:2:12: syntax error: there is no `not`\n"
        "        return not keep\n"
        "               ^^^\n"
        "  hint: `~` negates a condition",
    ),
    (
        formula("'text'"),
        "f.moa:2:12: syntax error: there are no strings\n"
        "        return 'text'\n"
        "               ^\n"
        "  hint: comments begin with #",
    ),
    (
        formula("X.shape"),
        "f.moa:2:14: syntax error: there is no attribute `.shape`\n"
        "        return X.shape\n"
        "                 ^^^^^\n"
        "  hint: size(x, axis) is the extent of an axis",
    ),
    (
        formula("X.sum()"),
        "f.moa:2:17: syntax error: found `(`, expected an operator, `,` or the end of the line\n"
        "        return X.sum()\n"
        "                    ^\n"
        "  hint: functions stand before their arguments: sum(x)",
    ),
    (
        formula("X X"),
        "f.moa:2:14: syntax error: found `X`, expected an operator, `(`, `,` or the end of the line\n"
        "        return X X\n"
        "                 ^\n"
        "  hint: an operator is missing, or a comma",
    ),
    (
        formula("X +"),
        "f.moa:2:15: syntax error: found the end of the line, expected a formula\n"
        "        return X + \n"
        "                  ^",
    ),
    (
        formula(""),
        "f.moa:2:12: syntax error: found the end of the line, expected a formula\n        return  \n               ^",
    ),
    (
        formula("[x for x in X]"),
        "f.moa:2:15: syntax error: there are no loops\n"
        "        return [x for x in X]\n"
        "                  ^^^\n"
        "  hint: scan and fold go along an axis; everything else is written on whole arrays",
    ),
    (
        formula("X[1:2:3:4]"),
        "f.moa:2:19: syntax error: found `:`, expected `]` or `,`\n        return X[1:2:3:4]\n                      ^",
    ),
    (
        formula("X[None, :, ]; X"),
        "f.moa:2:24: syntax error: the character `;` is not expected here\n"
        "        return X[None, :, ]; X\n"
        "                           ^\n"
        "  hint: write one statement a line",
    ),
    (
        formula("X ^ Y"),
        "f.moa:2:14: syntax error: the character `^` is not expected here\n"
        "        return X ^ Y\n"
        "                 ^\n"
        "  hint: ** is the power; ~(a == b) or a != b is exclusive or of conditions",
    ),
    (
        formula("f(*X)"),
        "f.moa:2:14: syntax error: found `*`, expected a formula or `)`\n"
        "        return f(*X)\n"
        "                 ^\n"
        "  hint: arguments are written out one by one",
    ),
    (
        formula("f(x=X, x=X)"),
        "f.moa:2:19: syntax error: argument x is given twice\n"
        "        return f(x=X, x=X)\n"
        "                      ^\n"
        "  hint: remove one",
    ),
    (
        formula("f(x=X, X)"),
        "f.moa:2:19: syntax error: a positional argument after one by keyword\n"
        "        return f(x=X, X)\n"
        "                      ^\n"
        "  hint: put it first",
    ),
    (
        formula("None"),
        "f.moa:2:12: syntax error: found `None`, expected a formula\n"
        "        return None\n"
        "               ^^^^\n"
        "  hint: None stands in an index only: x[:, None]",
    ),
    (
        formula("X.T(0)"),
        "f.moa:2:15: syntax error: found `(`, expected an operator, `,` or the end of the line\n"
        "        return X.T(0)\n"
        "                  ^\n"
        "  hint: functions stand before their arguments: T(x)",
    ),
    (
        formula("softmax(X)(X)"),
        "f.moa:2:22: syntax error: found `(`, expected an operator, `,` or the end of the line\n"
        "        return softmax(X)(X)\n"
        "                         ^\n"
        "  hint: only a name can be called",
    ),
    (
        formula("X == \x1b[31m\0"),
        "f.moa:2:18: syntax error: this `[` is never closed\n"
        "        return X == \\x1b[31m\\x00\n"
        "                        ^\n"
        "  hint: add `]`",
    ),
    (
        formula("é"),
        "f.moa:2:12: syntax error: the character `é` is not expected here\n"
        "        return é\n"
        "               ^\n"
        "  hint: names are made of ASCII letters, digits and _; the Greek letters are the operators ρ τ δ ι Φ ψ θ Ω",
    ),
    (
        formula("1e9999"),
        "f.moa:2:12: limit error: the number has more than 400 digits\n"
        "        return 1e9999\n"
        "               ^^^^^^\n"
        "  hint: float64 ends at about 1.8e308",
    ),
    (
        formula("1:2"),
        "f.moa:2:13: syntax error: found `:`, expected `,` or the end of the line\n"
        "        return 1:2\n"
        "                ^",
    ),
    (
        "def f(X[n]):\r\n\treturn Z\r\n",
        "f.moa:2:9: name error: there is no name Z\n"
        "        return Z\n"
        "               ^\n"
        "  hint: the names here are X, n",
    ),
    (
        "def f(X[n]):\n    return Z",
        "f.moa:2:12: name error: there is no name Z\n"
        "        return Z\n"
        "               ^\n"
        "  hint: the names here are X, n",
    ),
    (
        "def ffffffffffffffffffffffffffffffffffffffff(X[n]):\n    return (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((X)))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))\n",
        "f.moa:2:212: limit error: more than 200 brackets are open\n"
        "    ...(((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((\n"
        "                                                                                                           ^\n"
        "  hint: name parts of the formula",
    ),
    (
        formula("softmx(X)"),
        "f.moa:2:12: name error: there is no function softmx\n"
        "        return softmx(X)\n"
        "               ^^^^^^\n"
        "  hint: did you mean softmax?",
    ),
    (
        formula("arange(n)"),
        "f.moa:2:12: name error: there is no function arange\n"
        "        return arange(n)\n"
        "               ^^^^^^\n"
        "  hint: write iota(n)",
    ),
    (
        formula("Q"),
        "f.moa:2:12: name error: there is no name Q\n"
        "        return Q\n"
        "               ^\n"
        "  hint: the names here are X, Y, c, d, idx, keep, m, n ...",
    ),
    (
        formula("dim"),
        "f.moa:2:12: name error: there is no name dim\n"
        "        return dim\n"
        "               ^^^\n"
        "  hint: the names here are X, Y, c, d, idx, keep, m, n ...",
    ),
    (
        formula("X(1)"),
        "f.moa:2:12: name error: X is a value here, not a function\n"
        "        return X(1)\n"
        "               ^\n"
        "  hint: rename the value",
    ),
    (
        formula("undefined_thing(X)"),
        "f.moa:2:12: name error: there is no function undefined_thing\n"
        "        return undefined_thing(X)\n"
        "               ^^^^^^^^^^^^^^^",
    ),
    (
        "def g(x):\n    return g(x)\ndef f(X[n]):\n    return g(X)\n",
        "f.moa:2:12: name error: function g calls itself\n"
        "        return g(x)\n"
        "               ^^^^\n"
        "  hint: scan and fold repeat a step along an axis; called at f.moa:4:12",
    ),
    (
        "def g(x):\n    return h(x)\ndef h(x):\n    return g(x)\ndef f(X[n]):\n    return g(X)\n",
        "f.moa:4:12: name error: function g calls itself\n"
        "        return g(x)\n"
        "               ^^^^\n"
        "  hint: scan and fold repeat a step along an axis; called at f.moa:2:12",
    ),
    (
        "def f(n[n]):\n    return n\n",
        "f.moa:1:9: name error: n is both a parameter and a size\n"
        "    def f(n[n]):\n"
        "            ^\n"
        "  hint: give one of them another name",
    ),
    (
        "def f(X[n + 1]):\n    return X\n",
        "f.moa:1:9: name error: there is no name n\n"
        "    def f(X[n + 1]):\n"
        "            ^\n"
        "  hint: each size stands alone as an axis of some parameter",
    ),
    (
        "def f(X):\n    return X\n",
        "f.moa:1:7: type error: parameter X of the kernel f has no shape\n"
        "    def f(X):\n"
        "          ^\n"
        "  hint: write X[n, d] for an array, X: float for a scalar",
    ),
    (
        formula("X & Y"),
        "f.moa:2:12: type error: `&` joins conditions, here is a float\n"
        "        return X & Y\n"
        "               ^^^^^\n"
        "  hint: compare first, in parentheses: (x > 0) & (y > 0)",
    ),
    (
        formula("~X"),
        "f.moa:2:12: type error: `~` negates a condition, here is a float\n"
        "        return ~X\n"
        "               ^^\n"
        "  hint: compare first: ~(x > 0)",
    ),
    (
        formula("where(X, X, X)"),
        "f.moa:2:18: type error: `condition` of where must be a condition\n"
        "        return where(X, X, X)\n"
        "                     ^\n"
        "  hint: compare it: x != 0",
    ),
    (
        formula("any(X)"),
        "f.moa:2:12: type error: `any` is for conditions, here is an array of float\n"
        "        return any(X)\n"
        "               ^^^^^^\n"
        "  hint: write x != 0",
    ),
    (
        formula("X // 2"),
        "f.moa:2:12: type error: `//` is for integers, here is a float\n"
        "        return X // 2\n"
        "               ^^^^^^\n"
        "  hint: / divides real numbers",
    ),
    (
        formula("X % 2.0"),
        "f.moa:2:12: type error: `%` is for integers, here is a float\n        return X % 2.0\n               ^^^^^^^",
    ),
    (
        formula("X[c]"),
        "f.moa:2:14: type error: a float cannot be an index\n"
        "        return X[c]\n"
        "                 ^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("X[keep]"),
        "f.moa:2:14: type error: a condition cannot be an index\n"
        "        return X[keep]\n"
        "                 ^^^^\n"
        "  hint: where(condition, a, b) keeps the shape: it is the same for all data",
    ),
    (
        formula("X[:c]"),
        "f.moa:2:15: type error: the stop of a slice must be known from sizes and int parameters\n"
        "        return X[:c]\n"
        "                  ^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("X[::w]"),
        "f.moa:2:16: type error: the step of a slice must be an integer literal\n"
        "        return X[::w]\n"
        "                   ^",
    ),
    (
        formula("X[::0]"),
        "f.moa:2:14: type error: the step of a slice is 0\n"
        "        return X[::0]\n"
        "                 ^^^\n"
        "  hint: x[:: 1] takes every element, x[:: -1] reverses",
    ),
    (
        formula("X[idx, 0]"),
        "f.moa:2:19: type error: an integer array and an integer in one index\n"
        "        return X[idx, 0]\n"
        "                      ^\n"
        "  hint: index twice: x[a][:, k]",
    ),
    (
        formula("X[idx, idx]"),
        "f.moa:2:19: type error: two integer arrays in one index\n"
        "        return X[idx, idx]\n"
        "                      ^^^\n"
        "  hint: index twice: x[a][:, b]",
    ),
    (
        formula("X ** Y"),
        "f.moa:2:12: type error: this power is not defined\n"
        "        return X ** Y\n"
        "               ^^^^^^\n"
        "  hint: an integer literal, 0.5, or a positive literal as base; in general exp(y * log(x)) for positive x",
    ),
    (
        formula("X ** w"),
        "f.moa:2:12: type error: this power is not defined\n"
        "        return X ** w\n"
        "               ^^^^^^\n"
        "  hint: an integer literal, 0.5, or a positive literal as base; in general exp(y * log(x)) for positive x",
    ),
    (
        formula("X ** 1000"),
        "f.moa:2:12: limit error: the exponent 1000 is beyond 64\n"
        "        return X ** 1000\n"
        "               ^^^^^^^^^\n"
        "  hint: exp(n * log(x))",
    ),
    (
        formula("(X, Y) + 1"),
        "f.moa:2:12: type error: the left side of `+` is a tuple of 2, not an array\n"
        "        return (X, Y) + 1\n"
        "               ^^^^^^\n"
        "  hint: unpack it: a, b = ...",
    ),
    (
        formula("softmax"),
        "f.moa:2:5: type error: what the kernel returns is the function softmax, not an array\n"
        "        return softmax\n"
        "        ^^^^^^^^^^^^^^\n"
        "  hint: call it: softmax(...)",
    ),
    (
        formula("sum(X, Y)"),
        "f.moa:2:19: type error: `axis` of sum must be an integer literal\n"
        "        return sum(X, Y)\n"
        "                      ^",
    ),
    (
        formula("max(X, X)"),
        "f.moa:2:19: type error: the second argument of max is an axis, a literal\n"
        "        return max(X, X)\n"
        "                      ^\n"
        "  hint: maximum(x, y) compares two arrays element by element",
    ),
    (
        formula("sum(X, axis=w)"),
        "f.moa:2:19: type error: `axis` of sum must be an integer literal\n"
        "        return sum(X, axis=w)\n"
        "                      ^^^^^^",
    ),
    (
        formula("sum(X, keepdims=w)"),
        "f.moa:2:19: type error: `keepdims` of sum must be True or False\n"
        "        return sum(X, keepdims=w)\n"
        "                      ^^^^^^^^^^",
    ),
    (
        formula("sum()"),
        "f.moa:2:12: type error: argument x of sum is missing\n"
        "        return sum()\n"
        "               ^^^^^\n"
        "  hint: it is sum(x, axis=..., keepdims=...)",
    ),
    (
        formula("sum(X, 0, True, 1)"),
        "f.moa:2:28: type error: sum takes 3 arguments, here are 4\n"
        "        return sum(X, 0, True, 1)\n"
        "                               ^\n"
        "  hint: it is sum(x, axis=..., keepdims=...)",
    ),
    (
        formula("sum(X, dim=0)"),
        "f.moa:2:19: type error: sum has no argument dim\n"
        "        return sum(X, dim=0)\n"
        "                      ^^^^^\n"
        "  hint: it is sum(x, axis=..., keepdims=...)",
    ),
    (
        formula("sum(X, x=X)"),
        "f.moa:2:19: type error: argument x of sum is given twice\n"
        "        return sum(X, x=X)\n"
        "                      ^^^\n"
        "  hint: it is sum(x, axis=..., keepdims=...)",
    ),
    (
        formula("iota(c)"),
        "f.moa:2:17: type error: `n` of iota must be known from sizes and int parameters\n"
        "        return iota(c)\n"
        "                    ^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("iota([n, d])"),
        "f.moa:2:17: type error: iota of 2 extents: the indices of several axes are several arrays\n"
        "        return iota([n, d])\n"
        "                    ^^^^^^\n"
        "  hint: i, j = iota(n)[:, None], iota(m)",
    ),
    (
        formula("w // 0"),
        "f.moa:2:12: type error: `//` by 0\n"
        "        return w // 0\n"
        "               ^^^^^^\n"
        "  hint: the divisor must not be 0",
    ),
    (
        HEAD + "    a, b = X\n    return a\n",
        "f.moa:2:12: type error: 2 names for one value\n"
        "        a, b = X\n"
        "               ^\n"
        "  hint: take its parts by index: a = x[0]",
    ),
    (
        HEAD + "    a, b = X, X, X\n    return a\n",
        "f.moa:2:12: type error: 2 names for a tuple of 3\n"
        "        a, b = X, X, X\n"
        "               ^^^^^^^\n"
        "  hint: there must be one name a value",
    ),
    (
        formula("scan(X, X)"),
        "f.moa:2:17: type error: `f` of scan must be a function\n"
        "        return scan(X, X)\n"
        "                    ^\n"
        "  hint: define it with def and give its name",
    ),
    (
        formula("scan(maximum, X)"),
        "f.moa:2:12: type error: scan takes either identity or init\n"
        "        return scan(maximum, X)\n"
        "               ^^^^^^^^^^^^^^^^\n"
        "  hint: identity= declares an associative operator, init= a step function",
    ),
    (
        formula("scan(maximum, X, identity=X)"),
        "f.moa:2:29: type error: `identity` of scan must be made of literals\n"
        "        return scan(maximum, X, identity=X)\n"
        "                                ^^^^^^^^^^",
    ),
    (
        formula("()"),
        "f.moa:2:13: syntax error: found `)`, expected a formula\n        return ()\n                ^",
    ),
    (
        "def f(X[n], eps: float = X):\n    return X\n",
        "f.moa:1:26: name error: there is no name X\n"
        "    def f(X[n], eps: float = X):\n"
        "                             ^\n"
        "  hint: the names here are False, True, inf",
    ),
    (
        "def f(X[n], eps: int = 0.5):\n    return X\n",
        "f.moa:1:24: type error: the default of parameter eps is of another kind\n"
        "    def f(X[n], eps: int = 0.5):\n"
        "                           ^^^",
    ),
    (
        "def g(x: int):\n    return x\ndef f(X[n]):\n    return g(X)\n",
        "f.moa:4:14: type error: argument x of g is a float, expected an int\n        return g(X)\n                 ^",
    ),
    (
        formula("X + Y"),
        "f.moa:2:12: shape error: `+` meets extents n and m on axis -2: shapes [n, d] and [m, d]\n"
        "        return X + Y\n"
        "               ^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("X @ Y"),
        "f.moa:2:12: shape error: `@` joins axes of extents d and m: shapes [n, d] and [m, d]\n"
        "        return X @ Y\n"
        "               ^^^^^\n"
        "  hint: the last axis of the left side and the second-last of the right side must be equal",
    ),
    (
        formula("X @ 2.0"),
        "f.moa:2:12: shape error: the right side of `@` has no axes\n"
        "        return X @ 2.0\n"
        "               ^^^^^^^\n"
        "  hint: * multiplies by a scalar",
    ),
    (
        formula("X[0, 0, 0]"),
        "f.moa:2:12: shape error: 3 indices for an array with shape [n, d]\n"
        "        return X[0, 0, 0]\n"
        "               ^^^^^^^^^^\n"
        "  hint: there is one index an axis, at most",
    ),
    (
        formula("X[..., ...]"),
        "f.moa:2:12: syntax error: `...` is there twice in one index\n"
        "        return X[..., ...]\n"
        "               ^^^^^^^^^^^\n"
        "  hint: one `...` stands for all the axes left over",
    ),
    (
        formula("c[0]"),
        "f.moa:2:12: shape error: 1 index for an array with no axes\n"
        "        return c[0]\n"
        "               ^^^^\n"
        "  hint: there is one index an axis, at most",
    ),
    (
        formula("sum(X, axis=2)"),
        "f.moa:2:19: shape error: `sum` along axis 2 of an array with shape [n, d]\n"
        "        return sum(X, axis=2)\n"
        "                      ^^^^^^\n"
        "  hint: axes go from 0 to 1, or from -2 to -1",
    ),
    (
        formula("sum(c)"),
        "f.moa:2:12: shape error: `sum` along axis -1 of an array with no axes\n"
        "        return sum(c)\n"
        "               ^^^^^^\n"
        "  hint: a scalar has no axes",
    ),
    (
        formula("c.T"),
        "f.moa:2:12: shape error: `.T` of an array with no axes\n"
        "        return c.T\n"
        "               ^^^\n"
        "  hint: `.T` swaps the last two axes; x[:, None] makes a column",
    ),
    (
        formula("keep.T"),
        "f.moa:2:12: shape error: `.T` of an array with shape [n]\n"
        "        return keep.T\n"
        "               ^^^^^^\n"
        "  hint: `.T` swaps the last two axes; x[:, None] makes a column",
    ),
    (
        formula("concat(X, Y, axis=1)"),
        "f.moa:2:12: shape error: concat along axis 1 meets extents n and m on axis 0: shapes [n, d] and [m, d]\n"
        "        return concat(X, Y, axis=1)\n"
        "               ^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: all the other axes must have the same extents",
    ),
    (
        formula("concat(X, keep)"),
        "f.moa:2:12: shape error: concat of arrays of 2 and 1 axes: shapes [n, d] and [n]\n"
        "        return concat(X, keep)\n"
        "               ^^^^^^^^^^^^^^^\n"
        "  hint: None makes an axis of extent 1: x[None]",
    ),
    (
        formula("reshape(X, [n, m])"),
        "f.moa:2:12: shape error: reshape of [n, d], d*n elements, to [n, m], m*n elements\n"
        "        return reshape(X, [n, m])\n"
        "               ^^^^^^^^^^^^^^^^^^\n"
        "  hint: as many elements must come out as go in; -1 stands for one extent that follows from the others",
    ),
    (
        formula("reshape(X, [n])"),
        "f.moa:2:12: shape error: reshape of [n, d], d*n elements, to [n], n elements\n"
        "        return reshape(X, [n])\n"
        "               ^^^^^^^^^^^^^^^\n"
        "  hint: as many elements must come out as go in; -1 stands for one extent that follows from the others",
    ),
    (
        formula("reshape(X, [-1, -1])"),
        "f.moa:2:12: shape error: the extent -1 in [-1, -1] cannot be found\n"
        "        return reshape(X, [-1, -1])\n"
        "               ^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: as many elements must come out as go in; -1 stands for one extent that follows from the others",
    ),
    (
        formula("transpose(X, [0, 0])"),
        "f.moa:2:25: shape error: [0, 0] is not a permutation of the 2 axes of [n, d]\n"
        "        return transpose(X, [0, 0])\n"
        "                            ^^^^^^\n"
        "  hint: every axis stands there once, as a literal",
    ),
    (
        formula("X[n]"),
        "f.moa:2:14: shape error: index n is outside an axis of extent n\n        return X[n]\n                 ^",
    ),
    (
        formula("zeros(3)[3]"),
        "f.moa:2:21: shape error: index 3 is outside an axis of extent 3\n"
        "        return zeros(3)[3]\n"
        "                        ^",
    ),
    (
        formula("zeros(3)[1:5]"),
        "f.moa:2:21: shape error: the range from 1 to 5 does not fit an axis of extent 3\n"
        "        return zeros(3)[1:5]\n"
        "                        ^^^\n"
        "  hint: unlike in NumPy, a range is never cut off: minimum(k, n) says what is meant",
    ),
    (
        formula("zeros(3)[2:1]"),
        "f.moa:2:21: shape error: the range from 2 to 1 does not fit an axis of extent 3\n"
        "        return zeros(3)[2:1]\n"
        "                        ^^^\n"
        "  hint: unlike in NumPy, a range is never cut off: minimum(k, n) says what is meant",
    ),
    (
        formula("iota(-1)"),
        "f.moa:2:12: shape error: an axis of extent -1: it must not be negative\n"
        "        return iota(-1)\n"
        "               ^^^^^^^^",
    ),
    (
        formula("where(keep, X, Y)"),
        "f.moa:2:12: shape error: `where` meets extents n and m on axis -2: shapes [n] and [n, d] and [m, d]\n"
        "        return where(keep, X, Y)\n"
        "               ^^^^^^^^^^^^^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("softmax(X + Y)"),
        "f.moa:2:20: shape error: `+` meets extents n and m on axis -2: shapes [n, d] and [m, d]\n"
        "        return softmax(X + Y)\n"
        "                       ^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("softmax(c)"),
        "f.moa:2:12: shape error: in softmax: `max` along axis -1 of an array with no axes\n"
        "        return softmax(c)\n"
        "               ^^^^^^^^^^\n"
        "  hint: a scalar has no axes",
    ),
    (
        formula("⟨0 0 0⟩ ψ X"),
        "f.moa:2:12: shape error: `ψ` reaches 3 axes of an array of shape [n, d]\n"
        "        return ⟨0 0 0⟩ ψ X\n"
        "               ^^^^^^^^^^^\n"
        "  hint: the left side has one number an axis, at most",
    ),
    (
        formula("X +•× Y"),
        "f.moa:2:12: shape error: the inner product joins axes of extents d and m: shapes [n, d] and [m, d]\n"
        "        return X +•× Y\n"
        "               ^^^^^^^\n"
        "  hint: the last axis of the left side and the first of the right side must be equal",
    ),
    (
        formula("+/Ω⟨3⟩ X"),
        "f.moa:2:12: shape error: cells of rank 3 of an array of shape [n, d]\n"
        "        return +/Ω⟨3⟩ X\n"
        "               ^^^^^^^^\n"
        "  hint: Ω gives the rank of cells",
    ),
    (
        formula("ι ⟨n d⟩"),
        "f.moa:2:12: type error: `ι` of 2 extents: the indices of several axes are several arrays\n"
        "        return ι ⟨n d⟩\n"
        "               ^^^^^^^\n"
        "  hint: i, j = iota(n)[:, None], iota(m)",
    ),
    (
        "def g(A[a, b], B[b, a]):\n    return A @ B\ndef f(X[n, d], Y[n, d]):\n    return g(X, Y)\n",
        "f.moa:4:17: shape error: argument B of g has an axis of extent n, expected d\n"
        "        return g(X, Y)\n"
        "                    ^\n"
        "  hint: a size has one value in all parameters",
    ),
    (
        "def g(A[a, b]):\n    return A\ndef f(X[n]):\n    return g(X)\n",
        "f.moa:4:14: shape error: argument A of g has shape [n], expected 2 axes\n"
        "        return g(X)\n"
        "                 ^",
    ),
    (
        "def j(p, q):\n    return p\ndef f(X[n, d]):\n    return scan(j, (X, X), identity=0)\n",
        "f.moa:4:28: type error: 1 identities for 2 components\n"
        "        return scan(j, (X, X), identity=0)\n"
        "                               ^^^^^^^^^^\n"
        "  hint: one for each",
    ),
    (
        "def j(p, q):\n    return sum(p)\ndef f(X[n, d]):\n    return scan(j, X, identity=0)\n",
        "f.moa:4:12: shape error: j gives shape [] for component 0, the operand has [d]\n"
        "        return scan(j, X, identity=0)\n"
        "               ^^^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: it must give back the shapes that it takes",
    ),
    (
        "def j(p, q):\n    return p @ q\ndef f(X[n, d], Y[m, d]):\n    return fold(j, (X, Y), identity=0)\n",
        "f.moa:4:20: shape error: fold goes along axes of extents n and m\n"
        "        return fold(j, (X, Y), identity=0)\n"
        "                       ^^^^^^\n"
        "  hint: all arrays must have the same extent there",
    ),
    (
        formula(
            "X.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T"
        ),
        "f.moa:2:12: limit error: the formula is nested more than 100 deep\n"
        "        return X.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.T.\n"
        "               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: name parts of it on lines of their own",
    ),
    (
        formula("w * 9223372036854775808"),
        "f.moa:2:12: limit error: the integer does not fit 64 bits\n"
        "        return w * 9223372036854775808\n"
        "               ^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: write it as a float, with a dot",
    ),
    (
        formula("X @ Y.T + keep"),
        "f.moa:2:12: shape error: `+` meets extents m and n on axis -1: shapes [n, m] and [n]\n"
        "        return X @ Y.T + keep\n"
        "               ^^^^^^^^^^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("sum(where(keep, X, 0), axis=-3)"),
        "f.moa:2:16: shape error: `where` meets extents n and d on axis -1: shapes [n] and [n, d] and []\n"
        "        return sum(where(keep, X, 0), axis=-3)\n"
        "                   ^^^^^^^^^^^^^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("take(X, [1, 2])"),
        "f.moa:2:20: type error: `k` of take must be known from sizes and int parameters\n"
        "        return take(X, [1, 2])\n"
        "                       ^^^^^^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("argmax(zeros(0))"),
        "f.moa:2:12: shape error: argmax over an axis of extent 0: it needs 1\n"
        "        return argmax(zeros(0))\n"
        "               ^^^^^^^^^^^^^^^^",
    ),
    (
        formula("reshape(zeros(6), [4, 2])"),
        "f.moa:2:12: shape error: reshape of [6], 6 elements, to [4, 2], 8 elements\n"
        "        return reshape(zeros(6), [4, 2])\n"
        "               ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: as many elements must come out as go in; -1 stands for one extent that follows from the others",
    ),
    (
        formula("reshape(X, [c])"),
        "f.moa:2:23: type error: `shape` of reshape must be known from sizes and int parameters\n"
        "        return reshape(X, [c])\n"
        "                          ^^^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("X[:-w] + X"),
        "f.moa:2:12: shape error: `+` meets extents n - w and n on axis -2: shapes [n - w, d] and [n, d]\n"
        "        return X[:-w] + X\n"
        "               ^^^^^^^^^^\n"
        "  hint: extents must be the same size, or a literal 1; None makes an axis of extent 1",
    ),
    (
        formula("2 ** Y ** Y"),
        "f.moa:2:17: type error: this power is not defined\n"
        "        return 2 ** Y ** Y\n"
        "                    ^^^^^^\n"
        "  hint: an integer literal, 0.5, or a positive literal as base; in general exp(y * log(x)) for positive x",
    ),
    (
        formula("0 ** Y"),
        "f.moa:2:12: type error: this power is not defined\n"
        "        return 0 ** Y\n"
        "               ^^^^^^\n"
        "  hint: an integer literal, 0.5, or a positive literal as base; in general exp(y * log(x)) for positive x",
    ),
    (
        formula("Y @ X.T @ X.T"),
        "f.moa:2:12: shape error: `@` joins axes of extents n and d: shapes [m, n] and [d, n]\n"
        "        return Y @ X.T @ X.T\n"
        "               ^^^^^^^^^^^^^\n"
        "  hint: the last axis of the left side and the second-last of the right side must be equal",
    ),
    (
        formula("concat(X)"),
        "f.moa:2:12: type error: argument b of concat is missing\n"
        "        return concat(X)\n"
        "               ^^^^^^^^^\n"
        "  hint: it is concat(a, b, axis=...)",
    ),
    (
        formula("zeros(n, -2)"),
        "f.moa:2:21: shape error: an axis of extent -2: it must not be negative\n"
        "        return zeros(n, -2)\n"
        "                        ^^",
    ),
    (
        formula("rotate(X, c)"),
        "f.moa:2:22: type error: `k` of rotate must be known from sizes and int parameters\n"
        "        return rotate(X, c)\n"
        "                         ^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("logsumexp(X, axis=3)"),
        "f.moa:2:12: shape error: in logsumexp: `max` along axis 3 of an array with shape [n, d]\n"
        "        return logsumexp(X, axis=3)\n"
        "               ^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: axes go from 0 to 1, or from -2 to -1",
    ),
    (
        formula("mean(X, axis=w)"),
        "f.moa:2:12: type error: in mean: `axis` of sum must be an integer literal\n"
        "        return mean(X, axis=w)\n"
        "               ^^^^^^^^^^^^^^^",
    ),
    (
        formula("top_k(X, c)"),
        "f.moa:2:12: type error: in top_k: the stop of a slice must be known from sizes and int parameters\n"
        "        return top_k(X, c)\n"
        "               ^^^^^^^^^^^\n"
        "  hint: an index is a literal, or made of sizes and int parameters",
    ),
    (
        formula("X.T.S"),
        "f.moa:2:16: syntax error: there is no attribute `.S`\n"
        "        return X.T.S\n"
        "                   ^\n"
        "  hint: functions stand before their arguments: S(x)",
    ),
    (
        formula("(i for i in X)"),
        "f.moa:2:15: syntax error: there are no loops\n"
        "        return (i for i in X)\n"
        "                  ^^^\n"
        "  hint: scan and fold go along an axis; everything else is written on whole arrays",
    ),
    (
        formula("X <> Y"),
        "f.moa:2:15: syntax error: found `>`, expected a formula\n        return X <> Y\n                  ^",
    ),
    (
        formula("X = Y"),
        "f.moa:2:14: syntax error: found `=`, expected the end of the line\n        return X = Y\n                 ^",
    ),
    (
        formula("not_there"),
        "f.moa:2:12: name error: there is no name not_there\n"
        "        return not_there\n"
        "               ^^^^^^^^^\n"
        "  hint: the names here are X, Y, c, d, idx, keep, m, n ...",
    ),
    (
        formula("f(X, Y, w, c, keep, idx)"),
        "f.moa:2:12: name error: function f calls itself\n"
        "        return f(X, Y, w, c, keep, idx)\n"
        "               ^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  hint: scan and fold repeat a step along an axis",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_message(text: str, message: str) -> None:
    with pytest.raises(MoaError) as e:
        check(parse(text, "f.moa"))
    assert str(e.value) == message


def test_there_are_enough() -> None:
    assert len({message for _, message in MISTAKES}) >= 60


SHAPES: list[tuple[str, str, str]] = [
    (
        "Q",
        "n d-k",
        "shape of Q:1:3: syntax error: `d-k` is not a size\n"
        "    n d-k\n"
        "      ^^^\n"
        '  hint: a shape lists sizes, as "... n dk", with int or bool before them for other kinds',
    ),
    (
        "Q",
        "n ... d",
        "shape of Q:1:3: syntax error: `...` stands first in a shape, and once\n"
        "    n ... d\n"
        "      ^^^\n"
        "  hint: it is the list of leading axes",
    ),
    (
        "Q",
        "n \x1b[31m",
        "shape of Q:1:4: syntax error: this `[` is never closed\n    n \\x1b[31m\n          ^\n  hint: add `]`",
    ),
    (
        "2Q",
        "n",
        "syntax error: `2Q` is not a name of a parameter\n  hint: names are made of ASCII letters, digits and _",
    ),
    (
        "Q",
        "for",
        "shape of Q:1:1: syntax error: `for` is not a size\n"
        "    for\n"
        "    ^^^\n"
        '  hint: a shape lists sizes, as "... n dk", with int or bool before them for other kinds',
    ),
]


@pytest.mark.parametrize(("name", "shape", "message"), SHAPES)
def test_shape_text(name: str, shape: str, message: str) -> None:
    with pytest.raises(MoaError) as e:
        check(parse_expression("Q", "e", {name: shape}))
    assert str(e.value) == message
