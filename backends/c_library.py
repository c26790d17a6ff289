"""A library of one formula in C: the header, and the code around the printed Loops.

The text of Loops stands once for each width of vectors, chosen by the macros of the compiler; so do the functions that
pack arguments and count items and bytes, as these follow from the tiles. Everything inside is static.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moa.backends.c import print_functions
from moa.backends.c_scalars import HELPERS, Expressions
from moa.backends.c_vectors import DTYPES, scalars, vectors
from moa.backends.cfamily import comment, literal
from moa.expand import expand
from moa.ir import Obligation
from moa.lower import Lowered
from moa.ops import Kind
from moa.poly import Poly
from moa.tiles import Array, Tiles

ELEMENTS: dict[Kind, str] = {"i": "int64_t", "b": "uint8_t"}
SHORT_FLOATS = {
    "bf16": "Floats in arrays are bfloat16: a uint16_t is the upper half of the bits of a float.",
    "f16": "Floats in arrays are IEEE 754 binary16: a uint16_t is the bits of one.",
}
ERRORS = (
    ("NULL", "a pointer is NULL"),
    ("SIZE", "a size is negative or above 2147483647"),
    ("LARGE", "an array has too many elements"),
    ("SHAPE", "sizes do not fit each other"),
    ("STRIDE", "the last axis of an array is not contiguous"),
    ("ALIGN", "a pointer is not aligned to its elements"),
    ("INDEX", "an index array reaches outside its axis"),
    ("WORKSPACE", "the workspace is NULL or too small"),
    ("RANGE", "there is no such phase, item or thread"),
)
GUARDS = {64: "MOA_WITH_AVX512", 32: "defined(__AVX2__)"}


@dataclass(frozen=True, slots=True)
class Given:
    """A parameter of rank 0."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Interface:
    """What the functions of a library take.

    dtype     what is computed in, and `stored` what floats are in arrays: elements of Loops
    name      of the library and its functions
    params    arrays and scalars in the order of the formula
    sizes     the sizes that are not fixed
    outputs   arrays
    names     how each of them is written in C
    indices   (int array, extent): its elements index an axis of this extent
    """

    name: str
    dtype: str
    stored: str
    params: tuple[Array | Given, ...]
    sizes: tuple[str, ...]
    outputs: tuple[Array, ...]
    names: Mapping[str, str]
    obligations: tuple[Obligation, ...]
    indices: tuple[tuple[str, Poly], ...]
    about: str

    @property
    def float(self) -> str:
        return "uint16_t" if self.stored in SHORT_FLOATS else DTYPES[self.stored]["FLOAT"]

    @property
    def arrays(self) -> tuple[Array, ...]:
        return (*(p for p in self.params if isinstance(p, Array)), *self.outputs)

    @property
    def scalars(self) -> tuple[Given, ...]:
        return tuple(p for p in self.params if isinstance(p, Given))

    def element(self, kind: Kind) -> str:
        return ELEMENTS.get(kind, self.float)

    def pointer(self, a: Array) -> str:
        const = "" if a.role == "output" else "const "
        return f"{const}{self.element(a.kind)} *{self.names[a.name]}"

    def scalar(self, s: Given) -> str:
        return f"{'double' if s.kind == 'f' else 'int64_t'} {self.names[s.name]}"

    def counts(self) -> list[str]:
        """What sizes depend on: the parameters of the workspace query."""
        whole = [f"int64_t {self.names[s]}" for s in self.sizes]
        return [*whole, *(self.scalar(s) for s in self.scalars if s.kind == "i")]

    def parameters(self) -> list[str]:
        given = [self.pointer(p) if isinstance(p, Array) else self.scalar(p) for p in self.params]
        whole = [f"int64_t {self.names[s]}" for s in self.sizes]
        return [*given, *whole, *(self.pointer(a) for a in self.outputs), "void *workspace", "size_t workspace_bytes"]


@dataclass(frozen=True, slots=True)
class Width:
    """The lowered program for vectors of one size."""

    vector_bytes: int
    tiles: Tiles
    lowered: Lowered


def header(x: Interface) -> str:
    """NAME.h, for C and C++."""
    n, guard = x.name, f"MOA_{x.name.upper()}_H"
    fields = []
    for p in x.params:
        fields += [x.pointer(p)] if isinstance(p, Array) else [x.scalar(p)]
        fields += [f"int64_t {x.names[p.name]}_stride[{len(p.shape)}]"] if isinstance(p, Array) else []
    fields += [f"int64_t {x.names[s]}" for s in x.sizes]
    for a in x.outputs:
        fields += [x.pointer(a), f"int64_t {x.names[a.name]}_stride[{max(len(a.shape), 1)}]"]
    errors = [f"    {n.upper()}_{name} = {k}, /* {text} */" for k, (name, text) in enumerate(ERRORS, 1)]
    errors[-1] = errors[-1].replace(", /*", " /*")
    return "\n".join([
        comment(x.about), f"#ifndef {guard}", f"#define {guard}", "", "#include <stddef.h>", "#include <stdint.h>", "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        "enum {", f"    {n.upper()}_OK = 0,", *errors, "};", "",
        *([comment(SHORT_FLOATS[x.stored]), ""] if x.stored in SHORT_FLOATS else []),
        "/* All arrays with strides in elements; the last stride of each is 1. */",
        f"typedef struct {n}_args {{", *(f"    {f};" for f in fields), f"}} {n}_args;", "",
        "/* The bytes of workspace for so many threads; 0 where the sizes are wrong. */",
        f"size_t {n}_workspace({', '.join([*x.counts(), 'int threads'])});", "",
        "/* Computes everything, arrays being contiguous: 0 or an error code. The workspace may be uninitialised and",
        "   start anywhere; nothing is allocated. With OpenMP it uses as many threads as the workspace is made for. */",
        f"int {n}({', '.join(x.parameters())});", "",
        "/* The same with strides. */",
        f"int {n}_run(const {n}_args *args, void *workspace, size_t workspace_bytes);", "",
        "/* For callers with threads of their own: all items of a phase, in any order, by threads 0, 1, .. of those",
        "   that the one workspace is made for; then the next phase. Check the arguments first: these do not. */",
        f"int {n}_check(const {n}_args *args);", f"int {n}_phases(void);",
        f"int64_t {n}_items(const {n}_args *args, int phase);",
        f"int {n}_range(const {n}_args *args, int phase, int64_t first, int64_t last, int thread, void *workspace);",
        "",
        "/* What an error code means. */", f"const char *{n}_error(int code);", "",
        "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", "",
    ])  # fmt: skip


def source(x: Interface, widths: tuple[Width, ...], functions: Callable[[Width], str] | None = None) -> str:
    """NAME.c. `functions` gives the text of the Loops; without it they are printed as C."""
    out = [f'#include "{x.name}.h"', "", "#include <math.h>", "#if defined(_OPENMP)", "#include <omp.h>", "#endif", ""]
    out += [scalars(x.dtype, short=x.stored in SHORT_FLOATS), HELPERS]
    out += ["#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)",
            "#define MOA_WITH_AVX512 1", "#else", "#define MOA_WITH_AVX512 0", "#endif", ""]  # fmt: skip
    for k, w in enumerate(widths):
        if len(widths) > 1:
            word = "#else" if k == len(widths) - 1 else f"{'#elif' if k else '#if'} {GUARDS[w.vector_bytes]}"
            out += [f"{word} /* vectors of {w.vector_bytes} bytes */", ""]
        if functions is None:
            out.append(vectors(x.dtype, w.lowered.loops.width))
            out.append(print_functions(expand(w.lowered.loops), "moa", "static void"))
        else:
            out.append(functions(w))
        out += [packing(x, w), entries(w)]
    out += ["#endif", ""] if len(widths) > 1 else []
    return "\n".join([*out, interface(x)])


def expressions(x: Interface) -> Expressions:
    def name(kind: str, text: str) -> str:
        if text == "lowest":
            return literal(-3.4028234663852886e38 if x.dtype == "f32" else -1.7976931348623157e308, "f64")
        return f"a->{x.names[text]}"

    def load(array: str, index: tuple[Poly, ...]) -> str:
        raise AssertionError(f"{array} is read before the kernel runs")

    return Expressions(name, load)


def packing(x: Interface, w: Width) -> str:
    """What depends on the tiles: packed arguments, items, bytes."""
    e, args = expressions(x), f"const {x.name}_args *a"
    own = [a for a in w.tiles.arrays if a.role == "workspace"]
    shape = {a.name: a.shape for a in w.tiles.arrays}
    offsets: dict[str, str] = {}
    lines = [f"enum {{ MOA_PHASES = {len(w.lowered.items)}, MOA_SLOTS = {max(len(w.lowered.slots), 1)} }};", ""]
    lines += [f"static int64_t moa_items({args}, int phase)", "{", "    (void)a;", "    switch (phase) {"]
    lines += [f"    case {k}: return {e.poly(p)};" for k, p in enumerate(w.lowered.items)]
    lines += ["    default: return 0;", "    }", "}", ""]
    lines += ["/* scratch of one thread */", f"static size_t moa_scratch({args})", "{", "    (void)a;"]
    lines += [f"    return (size_t){e.poly(w.lowered.scratch_bytes)};", "}", ""]
    lines += ["/* arrays between phases; at[k] is where array k starts */"]
    lines += [
        f"static size_t moa_arrays({args}, size_t *at)",
        "{",
        "    size_t end = 0;",
        "    (void)a;",
        "    (void)at;",
    ]
    for k, array in enumerate(own):
        count = " * ".join(["1", *(f"(size_t){e.poly(p)}" for p in array.shape)])
        lines += [f"    at[{k}] = end; {comment(array.name)}",
                  f"    end += ({count} * sizeof({ELEMENTS.get(array.kind, 'moa_f')}) + 63) / 64 * 64;"]  # fmt: skip
        offsets[array.name] = f"at[{k}]"
    lines += ["    return end;", "}", ""]
    lines += [f"static void moa_pack({args}, unsigned char *arrays, int64_t *slot)", "{"]
    lines += [
        f"    size_t at[{max(len(own), 1)}];",
        "    (void)a;",
        "    (void)arrays;",
        "    (void)moa_arrays(a, at);",
    ]
    hosts = dict(w.tiles.hosts)
    if any(s.kind == "host" for s in w.lowered.slots):
        lines.insert(-2, "    double x;")
    for k, s in enumerate(w.lowered.slots):
        match s.kind:
            case "pointer" if s.name in offsets:
                lines.append(f"    slot[{k}] = (int64_t)(intptr_t)(arrays + {offsets[s.name]});")
            case "pointer":
                lines.append(f"    slot[{k}] = (int64_t)(intptr_t)a->{x.names[s.name]};")
            case "stride" if s.name in offsets:
                rest = " * ".join(["1", *(e.poly(p) for p in shape[s.name][s.axis + 1 :])])
                lines.append(f"    slot[{k}] = {rest};")
            case "stride":
                lines.append(f"    slot[{k}] = a->{x.names[s.name]}_stride[{s.axis}];")
            case "size":
                lines.append(f"    slot[{k}] = a->{x.names[s.name]};")
            case "host":
                lines.append(f"    x = {e.scalar(hosts[s.name])};")
                lines.append(f"    memcpy(&slot[{k}], &x, sizeof x);")
    return "\n".join([*lines, "}", ""])


def entries(w: Width) -> str:
    names = ", ".join(f"moa_p{k}" for k in range(len(w.lowered.items)))
    head = "typedef void moa_entry(int64_t *, int64_t, int64_t, unsigned char *);"
    return f"{head}\nstatic moa_entry *const moa_entries[MOA_PHASES] = {{{names}}};\n"


def interface(x: Interface) -> str:
    """The functions of the header."""
    n, upper = x.name, x.name.upper()
    fill = [f"a.{x.names[s]} = {x.names[s]};" for s in (*x.sizes, *(s.name for s in x.scalars))]
    counted = [f"a.{c.rsplit(' ', 1)[1]} = {c.rsplit(' ', 1)[1]};" for c in x.counts()]
    e = expressions(x)
    point = []
    for a in x.arrays:
        c = x.names[a.name]
        point.append(f"a.{c} = {c};")
        for k in reversed(range(len(a.shape))):
            last = k == len(a.shape) - 1
            text = "1" if last else f"a.{c}_stride[{k + 1}] * {e.poly(a.shape[k + 1])}".replace("a->", "a.")
            point.append(f"a.{c}_stride[{k}] = {text};")
    words = {
        "NAME": n,
        "UPPER": upper,
        "SIZES": ", ".join([*x.counts(), "int threads"]),
        "FILLSIZES": "\n    ".join(counted),
        "PARAMETERS": ", ".join(x.parameters()),
        "FILL": "\n    ".join([*fill, *point]),
        "CHECKSIZES": "\n    ".join(size_checks(x, e)),
        "COUNT": COUNT,
        "CHECKARRAYS": "\n    ".join([*array_checks(x, e), *index_checks(x, e)]),
        "MESSAGES": "\n    ".join(f'case {upper}_{name}: return "{text}";' for name, text in ERRORS),
    }
    text = INTERFACE
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def size_checks(x: Interface, e: Expressions) -> list[str]:
    upper = x.name.upper()
    out = [f"if (a->{x.names[s]} < 0 || a->{x.names[s]} > INT32_MAX) return {upper}_SIZE;" for s in x.sizes]
    for s in x.scalars:
        if s.kind == "i":
            c = f"a->{x.names[s.name]}"
            out.append(f"if ({c} < -INT32_MAX || {c} > INT32_MAX) return {upper}_SIZE;")
    for o in x.obligations:
        left, right = e.poly(o.left), e.poly(o.right)
        test = f"{left} != 0 && {right} % {left} == 0" if o.relation == "divides" else f"{left} {o.relation} {right}"
        out.append(f"if (!({test})) return {upper}_SHAPE; {comment(o.reason)}")
    for a in x.arrays:
        extents = ", ".join(e.poly(p) for p in a.shape)
        if a.shape:
            out.append(f"if (moa_count({len(a.shape)}, (const int64_t[]){{{extents}}}) < 0) return {upper}_LARGE;")
    return out


def array_checks(x: Interface, e: Expressions) -> list[str]:
    upper = x.name.upper()
    out = []
    for a in x.arrays:
        c, extents = f"a->{x.names[a.name]}", ", ".join(e.poly(p) for p in a.shape)
        count = f"moa_count({len(a.shape)}, (const int64_t[]){{{extents}}})" if a.shape else "1"
        out.append(f"if ({c} == NULL && {count} > 0) return {upper}_NULL;")
        out.append(f"if ((uintptr_t){c} % sizeof *{c} != 0) return {upper}_ALIGN;")
        if a.shape:
            last = f"{c}_stride[{len(a.shape) - 1}] != 1"
            out.append(f"if ({last} && {e.poly(a.shape[-1])} > 1) return {upper}_STRIDE;")
    return out


def index_checks(x: Interface, e: Expressions) -> list[str]:
    out = []
    for name, extent in x.indices:
        a = next(p for p in x.arrays if p.name == name)
        c, place = f"a->{x.names[name]}", []
        for k, p in enumerate(a.shape):
            out.append(f"{'    ' * k}for (int64_t i{k} = 0; i{k} < {e.poly(p)}; i{k}++)")
            place.append(f"i{k} * {c}_stride[{k}]")
        at = f"{c}[{' + '.join(place)}]"
        out.append(f"{'    ' * len(a.shape)}if ({at} < 0 || {at} >= {e.poly(extent)}) return {x.name.upper()}_INDEX;")
    return out


COUNT = r"""/* the number of elements, -1 where it is above 2^56 or an extent is negative */
__attribute__((unused)) static int64_t moa_count(int rank, const int64_t *extents)
{
    int64_t total = 1;
    int empty = 0;
    for (int k = 0; k < rank; k++) {
        if (extents[k] < 0) return -1;
        if (extents[k] == 0) empty = 1;
        else if (total > ((int64_t)1 << 56) / extents[k]) total = (int64_t)1 << 56;
        else total *= extents[k];
    }
    return empty ? 0 : total >= (int64_t)1 << 56 ? -1 : total;
}
"""

INTERFACE = r"""@COUNT@
static int moa_check_sizes(const @NAME@_args *a)
{
    (void)a;
    @CHECKSIZES@
    return @UPPER@_OK;
}

int @NAME@_check(const @NAME@_args *a)
{
    const int code = a == NULL ? @UPPER@_NULL : moa_check_sizes(a);
    if (code != @UPPER@_OK) return code;
    @CHECKARRAYS@
    return @UPPER@_OK;
}

static size_t moa_bytes(const @NAME@_args *a, size_t threads)
{
    size_t at[64];
    return 64 + moa_arrays(a, at) + threads * moa_scratch(a);
}

size_t @NAME@_workspace(@SIZES@)
{
    @NAME@_args a;
    memset(&a, 0, sizeof a);
    @FILLSIZES@
    if (threads < 1 || moa_check_sizes(&a) != @UPPER@_OK) return 0;
    return moa_bytes(&a, (size_t)threads);
}

int @NAME@_phases(void) { return MOA_PHASES; }

int64_t @NAME@_items(const @NAME@_args *args, int phase) { return moa_items(args, phase); }

int @NAME@_range(const @NAME@_args *args, int phase, int64_t first, int64_t last, int thread, void *workspace)
{
    int64_t slots[MOA_SLOTS] = {0};
    size_t at[64];
    unsigned char *arrays;
    if (args == NULL) return @UPPER@_NULL;
    if (phase < 0 || phase >= MOA_PHASES || thread < 0 || first < 0) return @UPPER@_RANGE;
    if (last > moa_items(args, phase)) return @UPPER@_RANGE;
    if (workspace == NULL) return @UPPER@_WORKSPACE;
    arrays = (unsigned char *)workspace + (64 - (uintptr_t)workspace % 64) % 64;
    moa_pack(args, arrays, slots);
    moa_entries[phase](slots, first, last, arrays + moa_arrays(args, at) + (size_t)thread * moa_scratch(args));
    return @UPPER@_OK;
}

int @NAME@_run(const @NAME@_args *args, void *workspace, size_t workspace_bytes)
{
    const int code = @NAME@_check(args);
    if (code != @UPPER@_OK) return code;
    if (workspace == NULL || workspace_bytes < moa_bytes(args, 1)) return @UPPER@_WORKSPACE;
    for (int phase = 0; phase < MOA_PHASES; phase++) {
        const int64_t items = moa_items(args, phase);
#if defined(_OPENMP)
        const size_t room = (workspace_bytes - moa_bytes(args, 0)) / moa_scratch(args);
        const int threads = room < (size_t)omp_get_max_threads() ? (int)room : omp_get_max_threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t k = 0; k < items; k++) (void)@NAME@_range(args, phase, k, k + 1, omp_get_thread_num(), workspace);
#else
        (void)@NAME@_range(args, phase, 0, items, 0, workspace);
#endif
    }
    return @UPPER@_OK;
}

int @NAME@(@PARAMETERS@)
{
    @NAME@_args a;
    memset(&a, 0, sizeof a);
    @FILL@
    return @NAME@_run(&a, workspace, workspace_bytes);
}

const char *@NAME@_error(int code)
{
    switch (code) {
    case @UPPER@_OK: return "no error";
    @MESSAGES@
    default: return "unknown error";
    }
}
"""
