"""The self-test of an emitted library: the equations before any law between reductions, as plain loops in double.

Every array of the system has a function that reads an element, 0 outside its bounds: an equation is evaluated on its
whole box, also where nothing demands it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moa.backends.c_library import Interface
from moa.backends.c_scalars import HELPERS, Expressions
from moa.backends.cfamily import comment
from moa.interp.recurrence import in_order, made
from moa.normal import Axis, Eq, Fold, Index, Normal, Recurrence
from moa.ops import Kind
from moa.poly import Poly

TOLERANCE = {"f32": "2e-4", "f64": "1e-11", "bf16": "1e-2", "f16": "2e-3"}
STARTS = {
    "add": "0.0",
    "mul": "1.0",
    "max": "(-INFINITY)",
    "min": "INFINITY",
    "or": "0.0",
    "and": "1.0",
    "argmax": "0.0",
}
JOINS = {"add": "r + x", "mul": "r * x", "max": "moa_maximum(r, x)", "min": "moa_minimum(r, x)",
         "or": "(r != 0 || x != 0)", "and": "(r != 0 && x != 0)"}  # fmt: skip


def selftest(
    x: Interface,
    normal: Normal,
    sizes: Sequence[Mapping[str, int]],
    fixed: Mapping[str, int],
    ranges: Mapping[str, Poly],
) -> str:
    """NAME_selftest.c: runs at each of `sizes`. `ranges` are the extents that elements of int arrays index."""
    return Selftest(x, normal, fixed, ranges).text(sizes)


class Selftest:
    def __init__(self, x: Interface, normal: Normal, fixed: Mapping[str, int], ranges: Mapping[str, Poly]) -> None:
        self.x, self.normal, self.fixed, self.ranges = x, normal, fixed, ranges
        self.order = in_order(normal)
        self.shapes: dict[str, tuple[Poly, ...]] = {a.name: a.shape for a in normal.inputs if a.shape}
        self.made: list[str] = []
        for s in self.order:
            assert not isinstance(s, Fold), "the equations before the laws hold no Fold"
            self.note({s.name: s.outer} if isinstance(s, Eq) else made(s))
            if isinstance(s, Recurrence):
                self.note({c.state: c.outer for c in s.components} | {f"{c.state}'": c.outer for c in s.components})
                self.note({m.name: m.outer for m in (*s.maps, *s.readers) if m.name not in self.shapes})
        self.numbers = {name: k for k, name in enumerate(self.shapes)}
        self.vars: dict[str, str] = {}
        self.e = Expressions(self.name, self.load)
        self.lines: list[str] = []
        self.depth = 1
        self.offset: dict[str, str] = {}

    def note(self, arrays: Mapping[str, tuple[Axis, ...]]) -> None:
        for name, outer in arrays.items():
            self.shapes[name] = tuple(p for _, p in outer)
            self.made.append(name)

    def name(self, kind: str, text: str) -> str:
        if kind == "var":
            return self.vars.setdefault(text, f"i{len(self.vars)}")
        return str(self.fixed[text]) if text in self.fixed else f"s_{self.x.names[text]}"

    def load(self, array: str, index: Index) -> str:
        return f"get{self.numbers[array]}({', '.join(self.e.poly(p) for p in index)})"

    def put(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    # equations

    def place(self, array: str, index: Sequence[str]) -> str:
        text = "0"
        for i, p in zip(index, self.shapes[array], strict=True):
            text = i if text == "0" else f"({text}) * {self.e.poly(p)} + {i}"
        return f"a{self.numbers[array]}[{text}]"

    def loops(self, axes: Sequence[Axis]) -> None:
        for v, p in axes:
            i = self.name("var", v)
            self.put(f"for (int64_t {i} = 0; {i} < {self.e.poly(p)}; {i}++) {{")
            self.depth += 1

    def close(self, count: int) -> None:
        for _ in range(count):
            self.depth -= 1
            self.put("}")

    def equation(self, q: Eq, target: str, skip: str = "") -> None:
        """Fills `target` with an equation; the axis `skip` is fixed outside."""
        axes = [a for a in q.outer if a[0] != skip]
        self.loops(axes)
        place = self.place(target, [self.name("var", v) for v, _ in q.outer])
        if q.red is None:
            self.put(f"{place} = {self.e.scalar(q.body)};")
        else:
            self.put("{")
            self.depth += 1
            self.put(f"double r = {STARTS[q.op]};")
            if q.op == "argmax":
                self.put("double best = -INFINITY;")
            self.loops([q.red])
            self.put(f"if ({self.e.cond(q.domain)}) {{")
            self.depth += 1
            for k, (c, s) in enumerate(q.pieces):
                self.put(f"{'else ' if k else ''}if ({self.e.cond(c)}) {{")
                self.put(f"    const double x = {self.e.scalar(s)};")
                if q.op == "argmax":  # the first NaN counts as the maximum
                    at = self.name("var", q.red[0])
                    self.put(f"    if (best == best && (x > best || x != x)) {{ best = x; r = (double){at}; }}")
                else:
                    self.put(f"    r = {JOINS[q.op]};")
                self.put("}")
            self.close(2)
            self.put(f"{place} = r;")
            self.close(1)
        self.close(len(axes))

    def recurrence(self, r: Recurrence) -> None:
        assert not r.readers, "readers come from a law"
        t, extent = self.name("var", r.axis[0]), self.e.poly(r.axis[1])
        for c in r.components:
            self.component(c.state, c.outer, self.e.scalar(c.start))
        self.put(f"for (int64_t {t} = 0; {t} < {extent}; {t}++) {{")
        self.depth += 1
        self.put(f"const int64_t kept = {f'{extent} - 1 - {t}' if r.reverse else t};")
        self.put("(void)kept;")
        for q in r.maps:
            self.equation(q, q.name, r.axis[0])
        for c in r.components:
            self.component(f"{c.state}'", c.outer, self.e.scalar(c.body))
        if not r.exclusive:
            self.advance(r)
        if r.keep:
            for c in r.components:
                self.loops(c.outer)
                index = [self.name("var", v) for v, _ in c.outer]
                at = [*index[: r.place], "kept", *index[r.place :]]
                self.put(f"{self.place(c.name, at)} = {self.place(c.state, index)};")
                self.close(len(c.outer))
        if r.exclusive:
            self.advance(r)
        self.close(1)
        if not r.keep:
            for c in r.components:
                index = [self.name("var", v) for v, _ in c.outer]
                self.component(c.name, c.outer, self.place(c.state, index))

    def component(self, target: str, outer: Sequence[Axis], value: str) -> None:
        self.loops(outer)
        self.put(f"{self.place(target, [self.name('var', v) for v, _ in outer])} = {value};")
        self.close(len(outer))

    def advance(self, r: Recurrence) -> None:
        for c in r.components:
            index = [self.name("var", v) for v, _ in c.outer]
            self.component(c.state, c.outer, self.place(f"{c.state}'", index))

    # the program

    def text(self, sizes: Sequence[Mapping[str, int]]) -> str:
        x = self.x
        head = comment(f"The self-test of {x.name}: the formula by plain loops in double, beside the library.")
        scalars = [*x.sizes, *(s.name for s in x.scalars)]
        kinds = {s.name: s.kind for s in x.scalars}
        included = "".join(f"#include <{name}.h>\n" for name in ("math", "stdio", "stdlib", "string"))
        out = [head, f'#include "{x.name}.h"', "", included, HELPERS]
        for s in scalars:
            out.append(f"static {'double' if kinds.get(s) == 'f' else 'int64_t'} s_{x.names[s]};")
        out.append("")
        for name, k in self.numbers.items():
            out += [f"static double *a{k}; {comment(name)}", *self.getter(name, k), ""]
        for q in self.order:
            if isinstance(q, Eq):
                self.put(comment(str(q)))
                self.equation(q, q.name)
            elif isinstance(q, Recurrence):
                self.put(comment(str(q)).replace("\n", "\n    "))
                self.recurrence(q)
        out += ["static void evaluate(void)", "{", *self.lines, "}", ""]
        out += [FIXED.replace("TOLERANCE", TOLERANCE[x.stored])]
        out += [FLOATS.get(x.stored, PLAIN.replace("FLOAT", x.float)), *self.test()]
        runs = []
        for given in sizes:
            values = [str(given[s]) if s in given else "0.5" for s in scalars]
            runs.append(f"    bad += test({', '.join(values)});")
        out += [
            "int main(void)",
            "{",
            "    int bad = 0;",
            *runs,
            "    return bad ? EXIT_FAILURE : EXIT_SUCCESS;",
            "}",
            "",
        ]
        return "\n".join(out)

    def getter(self, name: str, k: int) -> list[str]:
        shape = self.shapes[name]
        params = ", ".join(f"int64_t k{j}" for j in range(len(shape))) or "void"
        tests = [f"if (k{j} < 0 || k{j} >= {self.e.poly(p)}) return 0;" for j, p in enumerate(shape)]
        place = self.place(name, [f"k{j}" for j in range(len(shape))])
        body = "".join(f"    {t}\n" for t in tests) + f"    return {place};"
        return [f"__attribute__((unused)) static double get{k}({params})", "{", body, "}"]

    def count(self, name: str) -> str:
        return " * ".join(["1", *(self.e.poly(p) for p in self.shapes[name])])

    def test(self) -> list[str]:
        x = self.x
        kinds = {s.name: s.kind for s in x.scalars}
        scalars = [*x.sizes, *(s.name for s in x.scalars)]
        params = ", ".join(f"{'double' if kinds.get(s) == 'f' else 'int64_t'} p{k}" for k, s in enumerate(scalars))
        out = [
            f"static int test({params or 'void'})",
            "{",
            "    int bad = 0, code;",
            "    void *workspace;",
            "    size_t bytes;",
        ]
        for a in x.arrays:
            out.append(f"    {x.element(a.kind)} *x_{x.names[a.name]};")
        out += [f"    s_{x.names[s]} = p{k};" for k, s in enumerate(scalars)]
        counts = ", ".join([*(f"s_{c.rsplit(' ', 1)[1]}" for c in x.counts()), "THREADS"])
        out += [f"    bytes = {x.name}_workspace({counts});", "    workspace = make(bytes);"]
        inputs = [a for a in x.arrays if a.role == "input"]
        for k in self.numbers.values():
            name = next(n for n, j in self.numbers.items() if j == k)
            out.append(f"    a{k} = make((size_t)({self.count(name)}) * sizeof(double));")
        for a in x.arrays:
            c = f"x_{x.names[a.name]}"
            shape = " * ".join(["1", *(self.e.poly(p) for p in a.shape)])
            out.append(f"    {c} = make((size_t)({shape}) * sizeof *{c});")
            if a in inputs:
                k = self.numbers[a.name]
                upto = self.e.poly(self.ranges[a.name]) if a.name in self.ranges else "0"
                value = {"f": "stored(next())", "b": "next() > 0", "i": f"whole({upto})"}[a.kind]
                cast = f"({x.element(a.kind)})({value})"
                out.append(f"    for (int64_t k = 0; k < {shape}; k++) a{k}[k] = {read(f'({c}[k] = {cast})', a.kind)};")
        given = [f"x_{x.names[p.name]}" if p in x.arrays else f"s_{x.names[p.name]}" for p in x.params]
        given += [f"s_{x.names[s]}" for s in x.sizes] + [f"x_{x.names[a.name]}" for a in x.outputs]
        out += ["    evaluate();", f"    code = {x.name}({', '.join([*given, 'workspace', 'bytes'])});"]
        out += [f'    if (code != 0) {{ printf("{x.name}: %s\\n", {x.name}_error(code)); bad = 1; }}']
        for a in x.outputs:
            k, c = self.numbers[a.name], f"x_{x.names[a.name]}"
            shape = " * ".join(["1", *(self.e.poly(p) for p in a.shape)])
            judge = f"most = worse(most, &large, {read(f'{c}[k]', a.kind)}, a{k}[k]);"
            out += ["    if (code == 0) {", "        double most = 0, large = 1;"]
            out += [f"        for (int64_t k = 0; k < {shape}; k++) {judge}"]
            out += [f'        if (!judged("{x.name}: {x.names[a.name]}", most, large)) bad = 1;', "    }"]
        for k in self.numbers.values():
            out.append(f"    free(a{k});")
        out += [f"    free(x_{x.names[a.name]});" for a in x.arrays]
        out += ["    free(workspace);", "    return bad;", "}", ""]
        return out


def read(text: str, kind: Kind) -> str:
    """An element of an array as a double."""
    return f"number({text})" if kind == "f" else f"(double){text}"


PLAIN = r"""__attribute__((unused)) static FLOAT stored(double x) { return (FLOAT)x; }

__attribute__((unused)) static double number(FLOAT x) { return (double)x; }
"""

FLOATS = {
    "bf16": r"""/* the bits of a bfloat16 next to x, towards 0 */
__attribute__((unused)) static uint16_t stored(double x)
{
    const float single = (float)x;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return (uint16_t)(bits >> 16);
}

__attribute__((unused)) static double number(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float single;
    memcpy(&single, &bits, sizeof single);
    return (double)single;
}
""",
    "f16": r"""/* the bits of a binary16 next to x, towards 0; |x| <= 1, and 0 where it would be subnormal */
__attribute__((unused)) static uint16_t stored(double x)
{
    int exponent;
    const double part = frexp(fabs(x), &exponent);
    const uint16_t sign = x < 0 ? 0x8000u : 0;
    if (x == 0 || exponent < -13) return sign;
    return (uint16_t)(sign | (uint16_t)((exponent + 14) << 10) | (uint16_t)(part * 2048.0 - 1024.0));
}

__attribute__((unused)) static double number(uint16_t x)
{
    const int exponent = x >> 10 & 31, part = x & 1023;
    const double size = exponent ? ldexp(part + 1024.0, exponent - 25) : ldexp(part, -24);
    const double value = exponent == 31 ? part ? NAN : INFINITY : size;
    return x & 0x8000u ? -value : value;
}
""",
}

FIXED = r"""enum { THREADS = 2 };

static uint64_t state = 88172645463325252u;

/* from -1 to 1, exact in float */
__attribute__((unused)) static double next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(int64_t)(state >> 40) / 8388608.0 - 1.0;
}

/* an index below n; a small number where n is 0 */
__attribute__((unused)) static int64_t whole(int64_t n)
{
    const int64_t k = (int64_t)((next() + 1.0) * 4194304.0);
    return n > 0 ? k % n : k % 7 - 3;
}

static void *make(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (p == NULL) {
        printf("no memory\n");
        exit(EXIT_FAILURE);
    }
    return p;
}

static int judged(const char *what, double most, double large)
{
    const int ok = most <= TOLERANCE * large;
    printf("%s: largest difference %.3g, largest value %.3g: %s\n", what, most, large, ok ? "ok" : "WRONG");
    return ok;
}

static double worse(double most, double *large, double found, double meant)
{
    double apart;
    if ((found != found && meant != meant) || found == meant) apart = 0;
    else apart = found != found || meant != meant ? INFINITY : fabs(found - meant);
    if (fabs(meant) > *large && fabs(meant) < INFINITY) *large = fabs(meant);
    return apart > most ? apart : most;
}
"""
