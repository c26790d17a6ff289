"""The CUDA C++ text around printed Loops: headers, reductions over a warp, kernels, and their launch.

Launching allocates nothing, waits for nothing and keeps nothing, so that CUDA graphs can capture it.
"""

from __future__ import annotations

HEAD = r"""/* Made by moa. */
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* blocks are 32 lanes by the warps that share a work item */
#define MOA_LANE ((int)threadIdx.x)
#define MOA_WARP ((int)threadIdx.y)
#define MOA_HELPER static __device__ __forceinline__ __attribute__((unused))
"""

REDUCTIONS = r"""
MOA_HELPER moa_f moa_lane(moa_f x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
/* lane i with lane i + 16, then i + 8, .. until one is left; all lanes get it */
#define MOA_REDUCE(name, both) \
    MOA_HELPER moa_f moa_reduce_##name(moa_f a) \
    { \
        for (int half = 16; half > 0; half /= 2) { \
            const moa_f b = __shfl_down_sync(0xffffffffu, a, half); \
            a = both; \
        } \
        return moa_lane(a, 0); \
    }
MOA_REDUCE(add, a + b)
MOA_REDUCE(mul, a * b)
MOA_REDUCE(max, a > b ? a : b)
MOA_REDUCE(min, a < b ? a : b)
MOA_REDUCE(maxn, moa_fmaxn(a, b))
MOA_REDUCE(minn, moa_fminn(a, b))
"""

KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS@, @BLOCKS@) @PREFIX@_@KIND@@PHASE@(
    const __grid_constant__ @PREFIX@_words words, int64_t items, unsigned char *space, int64_t stride)
{
    @SCRATCH@
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x)
        @PREFIX@_p@PHASE@(words.word, item, item + 1, scratch);
}
"""

SCRATCH = {
    "shared": r"""extern __shared__ __align__(128) unsigned char moa_shared[];
    unsigned char *const scratch = moa_shared;
    (void)space;
    (void)stride;""",
    "global": r"unsigned char *const scratch = space + blockIdx.x * stride;",
}
"""Where the scratch of a block is; the compiler has to see which, to address shared memory as such."""

START = r"""
enum { MOA_MOST_BLOCKS = 512 }; /* that work at a time, where scratch is in global memory */

/* Shared memory that a block may have on the present device, or a negative CUDA error. */
static int64_t moa_shared_limit(void)
{
    int device = 0, bytes = 0;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess) code = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return code == cudaSuccess ? bytes : -(int64_t)code;
}

/* Starts the items of a phase: `shared` where the scratch of a block fits shared memory, else `global`. */
template <typename Words>
static int moa_start(
    void (*shared)(const Words, int64_t, unsigned char *, int64_t),
    void (*global)(const Words, int64_t, unsigned char *, int64_t), const int64_t *word,
    int warps, int64_t items, int64_t scratch, unsigned char *space, void *stream)
{
    Words words;
    const int64_t limit = moa_shared_limit();
    const bool fits = scratch <= limit;
    int64_t blocks = items;
    size_t bytes = 0;
    void *args[] = {&words, &items, &space, &scratch};
    if (limit < 0) return (int)-limit;
    if (items <= 0) return 0;
    if (!fits && global == nullptr) return (int)cudaErrorInvalidValue;
    memcpy(&words, word, sizeof words);
    if (fits) {
        const cudaError_t code =
            cudaFuncSetAttribute(shared, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)scratch);
        if (code != cudaSuccess) return (int)code;
        bytes = (size_t)scratch;
    }
    if (blocks > (fits ? INT32_MAX : MOA_MOST_BLOCKS)) blocks = fits ? INT32_MAX : MOA_MOST_BLOCKS;
    return (int)cudaLaunchKernel(
        fits ? shared : global, dim3((unsigned)blocks), dim3(32, (unsigned)warps), args, bytes, (cudaStream_t)stream);
}
"""

LAUNCH = r"""
extern "C" int @PREFIX@_start(
    int phase, const int64_t *word, int64_t items, int64_t scratch, unsigned char *space, void *stream)
{
    switch (phase) {
    @CASES@
    default: return (int)cudaErrorInvalidValue;
    }
}
"""

QUERIES = r"""
/* The bytes of global memory for the scratch of so many items, or a negative CUDA error. */
extern "C" int64_t moa_space(int64_t scratch, int64_t items)
{
    const int64_t limit = moa_shared_limit();
    if (limit < 0) return limit;
    return scratch <= limit ? 0 : scratch * (items < MOA_MOST_BLOCKS ? items : (int64_t)MOA_MOST_BLOCKS);
}

/* The present device, or a negative CUDA error. */
extern "C" int moa_present(void)
{
    int device = 0;
    const cudaError_t code = cudaGetDevice(&device);
    return code == cudaSuccess ? device : -(int)code;
}

/* The device that an address belongs to; -1 where it is memory of the host. */
extern "C" int moa_device_of(const void *address)
{
    cudaPointerAttributes found;
    const cudaError_t code = cudaPointerGetAttributes(&found, address);
    if (code != cudaSuccess) return -(int)code;
    return found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged ? found.device : -1;
}

extern "C" const char *moa_error(int code) { return cudaGetErrorString((cudaError_t)code); }
"""
"""What a caller in Python asks beside."""
