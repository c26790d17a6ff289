"""A library of one formula in CUDA C++: the header in plain C, and the code around the printed kernels.

Launching is asynchronous and allocates nothing; what the host computes before (offsets, items, bytes) is the text that
a library in C has too.
"""

from __future__ import annotations

from moa.backends.c_library import (
    COUNT,
    ELEMENTS,
    SHORT_FLOATS,
    Interface,
    Width,
    array_checks,
    expressions,
    packing,
    size_checks,
)
from moa.backends.c_scalars import HELPERS
from moa.backends.cfamily import comment
from moa.backends.cuda import filled, kernels, preamble, scratch_kinds, warps

ERRORS = (
    ("NULL", "a pointer is NULL"),
    ("SIZE", "a size is negative or above 2147483647"),
    ("LARGE", "an array has too many elements"),
    ("SHAPE", "sizes do not fit each other"),
    ("STRIDE", "the last axis of an array is not contiguous"),
    ("ALIGN", "a pointer is not aligned to its elements"),
    ("WORKSPACE", "the workspace is NULL or too small"),
    ("DEVICE", "the device is older than compute capability 8.0"),
)
STREAM = "struct CUstream_st *stream"


def header(x: Interface) -> str:
    """NAME.h, for C and C++; it needs no header of CUDA."""
    n, guard = x.name, f"MOA_{x.name.upper()}_H"
    return "\n".join([
        comment(x.about), f"#ifndef {guard}", f"#define {guard}", "", "#include <stddef.h>", "#include <stdint.h>", "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        "struct CUstream_st; /* a cudaStream_t or CUstream points to one; NULL is the default stream */", "",
        "/* What the functions return: 0, one of these, or a positive cudaError_t. */",
        "enum {", f"    {n.upper()}_OK = 0,", *error_lines(n), "};", "",
        *([comment(SHORT_FLOATS[x.stored]), ""] if x.stored in SHORT_FLOATS else []),
        *index_notes(x),
        "/* Arrays on the device, with strides in elements; the last stride of each is 1. */",
        f"typedef struct {n}_args {{", *(f"    {f};" for f in fields(x)), f"}} {n}_args;", "",
        "/* Whether the present device can run the kernels. */",
        f"int {n}_supported(void);", "",
        "/* The bytes of workspace on the present device, which may be 0. */",
        f"int {n}_workspace({', '.join([*x.counts(), 'size_t *bytes'])});", "",
        "/* Starts the kernels on a stream and returns: nothing is allocated or waited for, and CUDA graphs can",
        "   capture it. The workspace is memory of the device, of any content, free again once the stream is there. */",
        f"int {n}_launch(const {n}_args *args, void *workspace, size_t workspace_bytes, {STREAM});", "",
        "/* The same for arrays that are contiguous. */",
        f"int {n}({', '.join([*x.parameters(), STREAM])});", "",
        "/* What an error means. */", f"const char *{n}_error(int code);", "",
        "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", "",
    ])  # fmt: skip


def error_lines(name: str) -> list[str]:
    lines = [f"    {name.upper()}_{word} = -{k}, /* {text} */" for k, (word, text) in enumerate(ERRORS, 1)]
    return [*lines[:-1], lines[-1].replace(", /*", " /*")]


def fields(x: Interface) -> list[str]:
    out: list[str] = []
    for p in x.params:
        out += [x.pointer(p)] if p in x.arrays else [x.scalar(p)]  # type: ignore[arg-type]
        out += [f"int64_t {x.names[p.name]}_stride[{len(p.shape)}]"] if p in x.arrays else []
    out += [f"int64_t {x.names[s]}" for s in x.sizes]
    for a in x.outputs:
        out += [x.pointer(a), f"int64_t {x.names[a.name]}_stride[{max(len(a.shape), 1)}]"]
    return out


def index_notes(x: Interface) -> list[str]:
    """What is not checked: index arrays are on the device."""
    if not x.indices:
        return []
    names = ", ".join(dict.fromkeys(x.names[name] for name, _ in x.indices))
    text = f"An element of {names} that reaches outside its axis is moved to the nearest end: it is not checked."
    return [f"/* {text} */", ""]


def source(x: Interface, w: Width) -> str:
    """NAME.cu."""
    own = [
        f'#include "{x.name}.h"',
        "#include <initializer_list>",
        "#include <math.h>",
        preamble(x.dtype),
        HELPERS,
        kernels(w.lowered, x.name),
        packing(x, w),
    ]
    return "\n".join([*own, interface(x, w)])


def interface(x: Interface, w: Width) -> str:
    """The functions of the header."""
    n, upper, e = x.name, x.name.upper(), expressions(x)
    fill = [f"a.{x.names[s]} = {x.names[s]};" for s in (*x.sizes, *(s.name for s in x.scalars))]
    counted = [f"a.{c.rsplit(' ', 1)[1]} = {c.rsplit(' ', 1)[1]};" for c in x.counts()]
    cases = []
    for k in range(len(w.lowered.items)):
        both = [*(f"{n}_{kind[0]}{k}" for kind in scratch_kinds(w.lowered)), "nullptr"][:2]
        cases.append(
            f"if (code == 0) code = moa_start<{n}_words>({both[0]}, {both[1]}, slots, {warps(w.lowered.loops)}, "
            f"moa_items(args, {k}), scratch, space, stream);"
        )
    words = {
        "NAME": n,
        "UPPER": upper,
        "SIZES": ", ".join([*x.counts(), "size_t *bytes"]),
        "FILLSIZES": "\n    ".join(counted),
        "PARAMETERS": ", ".join([*x.parameters(), STREAM]),
        "STREAM": STREAM,
        "FILL": "\n    ".join([*fill, *contiguous(x)]),
        "COUNT": COUNT,
        "CHECKSIZES": "\n    ".join(size_checks(x, e)).replace("(const int64_t[]){", "{"),
        "CHECKARRAYS": "\n    ".join(array_checks(x, e)).replace("(const int64_t[]){", "{"),
        "LAUNCHES": "\n    ".join(cases),
        "MESSAGES": "\n    ".join(f'case {upper}_{name}: return "{text}";' for name, text in ERRORS),
    }
    return filled(INTERFACE, words)


def contiguous(x: Interface) -> list[str]:
    """Statements that fill in the arrays and their strides."""
    e, out = expressions(x), []
    for a in x.arrays:
        c = x.names[a.name]
        out.append(f"a.{c} = {c};")
        for k in reversed(range(len(a.shape))):
            last = k == len(a.shape) - 1
            text = "1" if last else f"a.{c}_stride[{k + 1}] * {e.poly(a.shape[k + 1])}".replace("a->", "a.")
            out.append(f"a.{c}_stride[{k}] = {text};")
    return out


INTERFACE = r"""@COUNT@
__attribute__((unused)) static int64_t moa_count(int rank, std::initializer_list<int64_t> extents)
{
    return moa_count(rank, extents.begin());
}

static int moa_check_sizes(const @NAME@_args *a)
{
    (void)a;
    @CHECKSIZES@
    return @UPPER@_OK;
}

static int moa_check(const @NAME@_args *a)
{
    const int code = a == NULL ? @UPPER@_NULL : moa_check_sizes(a);
    if (code != @UPPER@_OK) return code;
    @CHECKARRAYS@
    return @UPPER@_OK;
}

/* arrays between phases, and the scratch of blocks where it does not fit shared memory */
static size_t moa_bytes(const @NAME@_args *a, int64_t limit)
{
    size_t at[64], most = 0;
    for (int phase = 0; phase < MOA_PHASES; phase++) {
        const int64_t items = moa_items(a, phase), blocks = items < MOA_MOST_BLOCKS ? items : (int64_t)MOA_MOST_BLOCKS;
        const size_t bytes = (int64_t)moa_scratch(a) <= limit ? 0 : moa_scratch(a) * (size_t)blocks;
        if (bytes > most) most = bytes;
    }
    most += moa_arrays(a, at);
    return most ? most + 255 : 0; /* room to align it */
}

extern "C" int @NAME@_supported(void)
{
    int device = 0, major = 0;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess) code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return code != cudaSuccess ? (int)code : major < 8 ? (int)@UPPER@_DEVICE : (int)@UPPER@_OK;
}

extern "C" int @NAME@_workspace(@SIZES@)
{
    @NAME@_args a;
    const int64_t limit = moa_shared_limit();
    int code;
    memset(&a, 0, sizeof a);
    @FILLSIZES@
    if (bytes == NULL) return @UPPER@_NULL;
    *bytes = 0;
    if (limit < 0) return (int)-limit;
    code = moa_check_sizes(&a);
    if (code == @UPPER@_OK) *bytes = moa_bytes(&a, limit);
    return code;
}

extern "C" int @NAME@_launch(const @NAME@_args *args, void *workspace, size_t workspace_bytes, @STREAM@)
{
    const int64_t limit = moa_shared_limit();
    int64_t slots[MOA_SLOTS] = {0};
    size_t at[64], need;
    unsigned char *arrays, *space;
    int64_t scratch;
    int code = moa_check(args);
    if (code != @UPPER@_OK) return code;
    if (limit < 0) return (int)-limit;
    need = moa_bytes(args, limit);
    if (need && (workspace == NULL || workspace_bytes < need)) return @UPPER@_WORKSPACE;
    arrays = (unsigned char *)workspace + (256 - (uintptr_t)workspace % 256) % 256;
    space = arrays + moa_arrays(args, at);
    scratch = (int64_t)moa_scratch(args);
    moa_pack(args, arrays, slots);
    @LAUNCHES@
    return code;
}

extern "C" int @NAME@(@PARAMETERS@)
{
    @NAME@_args a;
    memset(&a, 0, sizeof a);
    @FILL@
    return @NAME@_launch(&a, workspace, workspace_bytes, stream);
}

extern "C" const char *@NAME@_error(int code)
{
    switch (code) {
    case @UPPER@_OK: return "no error";
    @MESSAGES@
    default: return code > 0 ? cudaGetErrorString((cudaError_t)code) : "unknown error";
    }
}
"""


# Arrays of the host --------------------------------------------------------------------------------------------------


def host_header(x: Interface) -> str:
    """NAME_host.h: what the self-test calls."""
    n, guard = x.name, f"MOA_{x.name.upper()}_HOST_H"
    return "\n".join([
        f"/* {n} on arrays of the host, for tests: they are copied to the device and back, and waited for. */",
        f"#ifndef {guard}", f"#define {guard}", "", f'#include "{n}.h"', "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        f"size_t {n}_host_workspace({', '.join([*x.counts(), 'int threads'])});",
        f"int {n}_host({', '.join(x.parameters())});",
        f"const char *{n}_host_error(int code);", "",
        "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", "",
    ])  # fmt: skip


def host_source(x: Interface) -> str:
    """NAME_host.cu."""
    e = expressions(x)
    copies: list[str] = []
    for k, a in enumerate(x.arrays):
        shape = " * ".join(["1", *(f"(size_t){e.poly(p)}".replace("a->", "") for p in a.shape)])
        copies.append(f"bytes[{k}] = {shape} * sizeof *{x.names[a.name]};")
        copies.append(f"given[{k}] = (void *){x.names[a.name]};")
    given = [f"({x.pointer(p).rsplit('*', 1)[0]}*)held[{x.arrays.index(p)}]" if p in x.arrays else x.names[p.name]
             for p in x.params]  # fmt: skip
    given += [x.names[s] for s in x.sizes]
    given += [f"({ELEMENTS.get(a.kind, x.float)} *)held[{x.arrays.index(a)}]" for a in x.outputs]
    words = {
        "NAME": x.name,
        "COUNTS": ", ".join([*x.counts(), "int threads"]),
        "UNUSED": " ".join(f"(void){c.rsplit(' ', 1)[1]};" for c in x.counts()),
        "PARAMETERS": ", ".join(x.parameters()),
        "ARRAYS": str(len(x.arrays)),
        "INPUTS": str(len(x.arrays) - len(x.outputs)),
        "COPIES": "\n    ".join(copies),
        "SIZES": "".join(f"{c.rsplit(' ', 1)[1]}, " for c in x.counts()),
        "GIVEN": ", ".join(given),
    }
    return filled(HOST, words)


HOST = r"""/* Made by moa. */
#include "@NAME@_host.h"

#include <cuda_runtime.h>

extern "C" size_t @NAME@_host_workspace(@COUNTS@)
{
    @UNUSED@
    return (size_t)threads;
}

extern "C" int @NAME@_host(@PARAMETERS@)
{
    enum { ARRAYS = @ARRAYS@, INPUTS = @INPUTS@ };
    void *given[ARRAYS], *held[ARRAYS + 1] = {0};
    size_t bytes[ARRAYS + 1] = {0};
    int code;
    (void)workspace;
    (void)workspace_bytes;
    @COPIES@
    code = @NAME@_workspace(@SIZES@&bytes[ARRAYS]);
    for (int k = 0; k <= ARRAYS && code == 0; k++)
        if (bytes[k]) code = (int)cudaMalloc(&held[k], bytes[k]);
    for (int k = 0; k < INPUTS && code == 0; k++)
        if (bytes[k]) code = (int)cudaMemcpy(held[k], given[k], bytes[k], cudaMemcpyHostToDevice);
    if (code == 0)
        code = @NAME@(@GIVEN@, held[ARRAYS], bytes[ARRAYS], (struct CUstream_st *)0);
    if (code == 0) code = (int)cudaDeviceSynchronize();
    for (int k = INPUTS; k < ARRAYS && code == 0; k++)
        if (bytes[k]) code = (int)cudaMemcpy(given[k], held[k], bytes[k], cudaMemcpyDeviceToHost);
    for (int k = 0; k <= ARRAYS; k++) (void)cudaFree(held[k]);
    return code;
}

extern "C" const char *@NAME@_host_error(int code) { return @NAME@_error(code); }
"""
