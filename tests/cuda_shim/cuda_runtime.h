/* Runs CUDA C++ on a CPU, one thread after the other, as adversarially as the rules allow. For tests only.
 *
 * Compile a .cu file unmodified with this folder on the include path:
 *
 *     g++ -std=c++17 -x c++ -I tests/cuda_shim -fPIC -shared -o kernel.so kernel.cu
 *
 * A CUDA thread is a fiber, a block is run to its end before the next one, and a fiber runs until it waits: at a barrier
 * of its block or for the other lanes of its warp. moa_shim_schedule chooses who is next:
 *
 *     0  every thread in turn               1  a warp as long as it can go on, the first warp first
 *     2  the same, the last warp first; blocks from the last to the first
 *
 * Shared memory starts as NaN in each block (bytes 0xff). What is behind it must stay as it was, and is checked when it
 * does. Arrays of moa_shim_alloc and cudaMalloc end where memory ends: a launch returns 700 for an access there, and 719
 * where threads wait for one another for ever or wrote behind their shared memory.
 */
#ifndef MOA_SHIM_CUDA_RUNTIME_H
#define MOA_SHIM_CUDA_RUNTIME_H

#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/mman.h>
#include <tuple>
#include <type_traits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h> /* helpers of emitted text convert halves by it */
#else
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorIllegalAddress = 700,
    cudaErrorMisalignedAddress = 716,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2, cudaMemoryTypeManaged = 3 };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
typedef struct CUstream_st *cudaStream_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace moa_shim {

constexpr size_t SHARED_BYTES = 232448, GUARD_BYTES = 65536, STACK_BYTES = 262144;
constexpr unsigned MOST_THREADS = 1024;

inline std::vector<std::function<cudaError_t()>> captured; /* launches of the one graph there is */
inline bool capturing = false;
inline void *last_stream = nullptr;
inline int present_device = 0; /* all memory is on device 0 */
inline std::vector<std::pair<uintptr_t, uintptr_t>> allocated; /* first and last byte + 1 of what is on the device */
inline int schedule = 0;
inline int64_t shared_limit = SHARED_BYTES;

/* Fibers */

#if defined(__x86_64__)
/* saves the registers that a call keeps and the stack pointer, and goes on with another stack */
extern "C" void moa_shim_switch(void **from, void *to) __attribute__((visibility("hidden")));
asm(".text\n.hidden moa_shim_switch\n.weak moa_shim_switch\n.type moa_shim_switch,@function\nmoa_shim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#endif

struct Copy { /* that a thread started and has not waited for */
    void *to;
    const void *from;
    unsigned bytes, group;
};

struct Fiber {
    unsigned char *stack = nullptr;
    bool done = true;
    unsigned exchanges = 0, groups = 0;
    std::vector<Copy> copies;
#if defined(__x86_64__)
    void *at = nullptr;
#else
    ucontext_t at;
#endif
};

struct Barrier {
    unsigned waiting = 0;
    unsigned long round = 0;
};

struct Slot {
    unsigned char bytes[32];
};

inline Fiber fibers[MOST_THREADS];
inline Fiber outside;
inline unsigned present;
inline unsigned long progress;
inline Barrier block_barrier, warp_barrier[MOST_THREADS / 32];
inline Slot slots[2][MOST_THREADS];
inline std::function<void()> kernel;

inline void resume(Fiber &from, Fiber &to)
{
#if defined(__x86_64__)
    moa_shim_switch(&from.at, to.at);
#else
    swapcontext(&from.at, &to.at);
#endif
}

inline void wait_in(Barrier &b, unsigned threads)
{
    const unsigned long round = b.round;
    progress++;
    if (++b.waiting == threads) {
        b.waiting = 0;
        b.round++;
        return;
    }
    while (b.round == round) resume(fibers[present], outside);
}

inline void run_fiber()
{
    kernel();
    fibers[present].done = true;
    progress++;
    resume(fibers[present], outside);
}

inline void begin(Fiber &f)
{
    f.done = false;
    f.exchanges = f.groups = 0;
    f.copies.clear(); /* what was never waited for never arrived */
    if (f.stack == nullptr)
        f.stack = (unsigned char *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
#if defined(__x86_64__)
    void **top = (void **)(f.stack + STACK_BYTES) - 1; /* a function starts 8 bytes off a multiple of 16 */
    *--top = (void *)run_fiber; /* where the first switch returns to */
    f.at = top - 6;
#else
    getcontext(&f.at);
    f.at.uc_stack.ss_sp = f.stack;
    f.at.uc_stack.ss_size = STACK_BYTES;
    f.at.uc_link = &outside.at;
    makecontext(&f.at, run_fiber, 0);
#endif
}

/* what every lane of the warp brought; two sets of slots, so that one barrier is enough */
template <typename T> inline const Slot *exchange(T value)
{
    static_assert(sizeof(T) <= sizeof(Slot), "a value of at most 32 bytes");
    Slot *all = slots[fibers[present].exchanges++ % 2];
    memcpy(&all[present], &value, sizeof value);
    wait_in(warp_barrier[present / 32], 32);
    return all + present / 32 * 32;
}

template <typename T> inline T of_lane(const Slot *all, unsigned lane)
{
    T value;
    memcpy(&value, &all[lane], sizeof value);
    return value;
}

/* Memory */

extern "C" {
extern unsigned char moa_shared[];
}

inline sigjmp_buf fault;

inline void on_fault(int) { siglongjmp(fault, cudaErrorIllegalAddress); }

/* ends the launch unless an address is a multiple of 16 */
inline void aligned(const void *address)
{
    if ((uintptr_t)address % 16 != 0) siglongjmp(fault, cudaErrorMisalignedAddress);
}

/* Blocks */

inline void enter(unsigned t)
{
    present = t;
    threadIdx = dim3(t % blockDim.x, t / blockDim.x);
    resume(outside, fibers[t]);
}

/* whether all threads of a block came to their end */
inline bool run_block(unsigned threads)
{
    block_barrier = Barrier();
    for (Barrier &b : warp_barrier) b = Barrier();
    for (unsigned t = 0; t < threads; t++) begin(fibers[t]);
    const unsigned warps = threads / 32;
    for (;;) {
        const unsigned long before = progress;
        bool left = false;
        for (unsigned k = 0; k < warps; k++) {
            const unsigned w = schedule == 2 ? warps - 1 - k : k;
            unsigned long inner;
            do {
                inner = progress;
                for (unsigned t = w * 32; t < w * 32 + 32; t++)
                    if (!fibers[t].done) enter(t);
            } while (schedule != 0 && inner != progress);
        }
        for (unsigned t = 0; t < threads; t++) left = left || !fibers[t].done;
        if (!left) return true;
        if (before == progress) return false;
    }
}

inline cudaError_t run_grid(dim3 grid, dim3 block, size_t bytes)
{
    const unsigned threads = block.x * block.y;
    if (threads == 0 || threads % 32 != 0 || threads > MOST_THREADS || grid.x == 0) return cudaErrorInvalidValue;
    if (bytes > SHARED_BYTES || (int64_t)bytes > shared_limit) return cudaErrorInvalidValue;
    gridDim = grid;
    blockDim = block;
    for (unsigned k = 0; k < grid.x; k++) {
        blockIdx = dim3(schedule == 2 ? grid.x - 1 - k : k);
        memset(moa_shared, 0xff, bytes);
        memset(moa_shared + bytes, 0x5a, SHARED_BYTES + GUARD_BYTES - bytes);
        if (!run_block(threads)) return cudaErrorLaunchFailure;
        for (size_t at = bytes; at < SHARED_BYTES + GUARD_BYTES; at++)
            if (moa_shared[at] != 0x5a) return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

inline cudaError_t launch(dim3 grid, dim3 block, size_t bytes)
{
    static unsigned char stack[65536];
    stack_t mine = {}, theirs;
    struct sigaction act = {}, segv, bus;
    cudaError_t code;
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    sigaltstack(&mine, &theirs);
    act.sa_handler = on_fault;
    act.sa_flags = SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &act, &segv);
    sigaction(SIGBUS, &act, &bus);
    const int ended = sigsetjmp(fault, 1);
    code = ended == 0 ? run_grid(grid, block, bytes) : (cudaError_t)ended;
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    sigaltstack(&theirs, nullptr);
    return code;
}

template <typename... Args, size_t... K>
inline std::function<void()> bound(void (*f)(Args...), void **args, std::index_sequence<K...>)
{
    auto values = std::make_tuple(*(std::remove_const_t<Args> *)args[K]...);
    return [f, values] { std::apply(f, values); };
}

} // namespace moa_shim

extern "C" {
__attribute__((weak)) alignas(4096) unsigned char moa_shared[moa_shim::SHARED_BYTES + moa_shim::GUARD_BYTES];

__attribute__((used, weak)) void moa_shim_schedule(int kind) { moa_shim::schedule = kind; }
__attribute__((used, weak)) void moa_shim_shared_limit(int64_t bytes) { moa_shim::shared_limit = bytes; }

/* so many bytes that end where memory that does not exist begins; NULL where there are none left */
__attribute__((used, weak)) void *moa_shim_alloc(size_t bytes)
{
    const size_t page = 4096, whole = (bytes + page - 1) / page * page;
    unsigned char *all = (unsigned char *)mmap(nullptr, whole + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ((void *)all == MAP_FAILED) return nullptr;
    if (whole) mprotect(all + page, whole, PROT_READ | PROT_WRITE);
    moa_shim::allocated.push_back({(uintptr_t)(all + page + whole - bytes), (uintptr_t)(all + page + whole)});
    return all + page + whole - bytes;
}

/* makes memory of the host memory of the device */
__attribute__((used, weak)) void moa_shim_adopt(void *address, size_t bytes)
{
    moa_shim::allocated.push_back({(uintptr_t)address, (uintptr_t)address + bytes});
}

__attribute__((used, weak)) void *moa_shim_last_stream(void) { return moa_shim::last_stream; }
__attribute__((used, weak)) void moa_shim_device(int device) { moa_shim::present_device = device; }

__attribute__((used, weak)) void moa_shim_free(void *address, size_t bytes)
{
    const size_t page = 4096, whole = (bytes + page - 1) / page * page;
    munmap((unsigned char *)address - (whole - bytes) - page, whole + 2 * page);
}
}

/* What kernels call */

inline void __syncthreads() { moa_shim::wait_in(moa_shim::block_barrier, blockDim.x * blockDim.y); }

template <typename T> inline T __shfl_sync(unsigned, T value, int lane)
{
    return moa_shim::of_lane<T>(moa_shim::exchange(value), (unsigned)lane % 32);
}

template <typename T> inline T __shfl_xor_sync(unsigned, T value, int mask)
{
    return moa_shim::of_lane<T>(moa_shim::exchange(value), (moa_shim::present % 32) ^ ((unsigned)mask % 32));
}

template <typename T> inline T __shfl_down_sync(unsigned, T value, unsigned distance)
{
    const unsigned lane = moa_shim::present % 32, from = lane + distance;
    return moa_shim::of_lane<T>(moa_shim::exchange(value), from < 32 ? from : lane);
}

/* What launchers call */

template <typename... Args>
inline cudaError_t cudaLaunchKernel(
    void (*f)(Args...), dim3 grid, dim3 block, void **args, size_t bytes, cudaStream_t stream)
{
    moa_shim::last_stream = stream;
    auto kernel = moa_shim::bound(f, args, std::index_sequence_for<Args...>());
    auto start = [=] {
        moa_shim::kernel = kernel;
        return moa_shim::launch(grid, block, bytes);
    };
    if (!moa_shim::capturing) return start();
    moa_shim::captured.push_back(start);
    return cudaSuccess;
}

template <typename F> inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int bytes)
{
    return bytes <= moa_shim::shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaGetDevice(int *device)
{
    *device = moa_shim::present_device;
    return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)moa_shim::shared_limit
             : attribute == cudaDevAttrComputeCapabilityMajor     ? 9
                                                                  : 0;
    return cudaSuccess;
}

/* what is neither a launch nor a query ends a capture */
inline cudaError_t uncapturable() { return moa_shim::capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }

inline cudaError_t cudaMalloc(void **address, size_t bytes)
{
    if (uncapturable()) return uncapturable();
    *address = moa_shim_alloc(bytes);
    if (*address) memset(*address, 0xff, bytes);
    return *address ? cudaSuccess : cudaErrorMemoryAllocation;
}

inline cudaError_t cudaFree(void *) { return cudaSuccess; } /* a process of tests is short */

inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    if (uncapturable()) return uncapturable();
    memcpy(to, from, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *found, const void *address)
{
    *found = {cudaMemoryTypeUnregistered, -1};
    for (const auto &[first, end] : moa_shim::allocated)
        if ((uintptr_t)address >= first && (uintptr_t)address < end) *found = {cudaMemoryTypeDevice, 0};
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize() { return uncapturable(); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return uncapturable(); }

inline cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    moa_shim::captured.clear();
    moa_shim::capturing = true;
    return cudaSuccess;
}

inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    moa_shim::capturing = false;
    *graph = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t, unsigned long long)
{
    *ready = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t)
{
    for (auto &start : moa_shim::captured) {
        const cudaError_t code = start();
        if (code != cudaSuccess) return code;
    }
    return cudaSuccess;
}

inline const char *cudaGetErrorString(cudaError_t code)
{
    switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorMisalignedAddress: return "misaligned address";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return "invalid argument";
    }
}

#endif
