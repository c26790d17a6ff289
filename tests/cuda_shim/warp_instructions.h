/* Instructions of a warp that have no name in CUDA C++: copies that overlap, and products of small matrices.
 *
 * By nvcc they are PTX for compute capability 8.0. By a compiler for a CPU they do what the PTX manual says, as late as
 * it allows: a copy poisons what it will write until its thread waits for its group, and arrives then, not before.
 *
 *     copy16<..>     16 bytes from global to shared memory; of the source only so many, the others become 0
 *     matrices       four 8 x 8 matrices of 2-byte elements; lane i brings the address of row i % 8 of matrix i / 8
 *     multiply_..    c += a b, the elements spread over the lanes as in the manual: g = lane / 4, t = lane % 4
 *
 * Products add in float32 or float64 from the first k to the last; a GPU may add in another order.
 */
#ifndef MOA_WARP_INSTRUCTIONS_H
#define MOA_WARP_INSTRUCTIONS_H

#include <cuda_runtime.h>

#ifdef __CUDACC__

#define WARP_INSTRUCTION static __device__ __forceinline__

WARP_INSTRUCTION uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

WARP_INSTRUCTION void copy16(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

WARP_INSTRUCTION void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int LEFT> WARP_INSTRUCTION void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

WARP_INSTRUCTION void matrices(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

WARP_INSTRUCTION void matrices_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

#define MULTIPLY_16_8_16(name, type) \
    WARP_INSTRUCTION void name(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) \
    { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, " \
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
MULTIPLY_16_8_16(multiply_bf16, "bf16")
MULTIPLY_16_8_16(multiply_f16, "f16")

WARP_INSTRUCTION void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

WARP_INSTRUCTION void multiply_f64(double (&c)[2], double a, double b)
{
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a), "d"(b));
}

#else

namespace moa_shim {

inline float of_bf16(uint16_t x)
{
    const uint32_t wide = (uint32_t)x << 16;
    float out;
    memcpy(&out, &wide, 4);
    return out;
}

/* exact, also for subnormals, infinities and NaN */
inline float of_f16(uint16_t x)
{
    const int exponent = x >> 10 & 31, digits = x & 1023;
    const float size = exponent == 0    ? std::ldexp((float)digits, -24)
                       : exponent != 31 ? std::ldexp((float)(digits + 1024), exponent - 25)
                       : digits == 0    ? INFINITY
                                        : NAN;
    return x >> 15 ? -size : size;
}

inline float of_tf32(uint32_t x)
{
    x &= 0xffffe000; /* the low digits are not looked at */
    float out;
    memcpy(&out, &x, 4);
    return out;
}

inline void read_matrices(uint32_t (&r)[4], const void *row, bool transposed)
{
    aligned(row);
    const Slot *all = exchange(row);
    const unsigned g = present % 32 / 4, t = present % 4;
    for (unsigned k = 0; k < 4; k++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            const uint16_t *from = of_lane<const uint16_t *>(all, 8 * k + (transposed ? 2 * t + j : g));
            pair[j] = from[transposed ? g : 2 * t + j];
        }
        memcpy(&r[k], pair, 4);
    }
}

struct Operands {
    uint32_t a[4], b[2];
};

/* 16 x 8 results in float32; each register of an operand holds `each` elements that follow one another along k */
template <unsigned EACH, typename Element>
inline void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Element element)
{
    Operands mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    const Slot *all = exchange(mine);
    const unsigned g = present % 32 / 4, t = present % 4;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < 8 * EACH; k++) {
            const unsigned far = k / (4 * EACH), lane = k / EACH % 4, column = 2 * t + i % 2;
            const Operands left = of_lane<Operands>(all, 4 * g + lane), right = of_lane<Operands>(all, 4 * column + lane);
            c[i] += element(left.a[i / 2 + 2 * far], k % EACH) * element(right.b[far], k % EACH);
        }
}

inline uint16_t half_of(uint32_t pair, unsigned k) { return (uint16_t)(pair >> 16 * k); }

} // namespace moa_shim

inline void copy16(void *to, const void *from, int bytes)
{
    moa_shim::aligned(to);
    moa_shim::aligned(from);
    memset(to, 0xff, 16);
    moa_shim::Fiber &f = moa_shim::fibers[moa_shim::present];
    f.copies.push_back({to, from, (unsigned)bytes, f.groups});
}

inline void copies_commit() { moa_shim::fibers[moa_shim::present].groups++; }

template <int LEFT> inline void copies_wait()
{
    moa_shim::Fiber &f = moa_shim::fibers[moa_shim::present];
    std::vector<moa_shim::Copy> later;
    for (const moa_shim::Copy &c : f.copies)
        if (c.group + LEFT >= f.groups) {
            later.push_back(c);
        } else {
            memset(c.to, 0, 16);
            memcpy(c.to, c.from, c.bytes);
        }
    f.copies.swap(later);
    for (const moa_shim::Copy &c : f.copies) memset(c.to, 0xff, 16); /* it may have arrived before those did */
}

inline void matrices(uint32_t (&r)[4], const void *row) { moa_shim::read_matrices(r, row, false); }
inline void matrices_transposed(uint32_t (&r)[4], const void *row) { moa_shim::read_matrices(r, row, true); }

inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    moa_shim::multiply<2>(c, a, b, [](uint32_t x, unsigned k) { return moa_shim::of_bf16(moa_shim::half_of(x, k)); });
}

inline void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    moa_shim::multiply<2>(c, a, b, [](uint32_t x, unsigned k) { return moa_shim::of_f16(moa_shim::half_of(x, k)); });
}

inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    moa_shim::multiply<1>(c, a, b, [](uint32_t x, unsigned) { return moa_shim::of_tf32(x); });
}

inline void multiply_f64(double (&c)[2], double a, double b)
{
    const moa_shim::Slot *left = moa_shim::exchange(a), *right = moa_shim::exchange(b);
    const unsigned g = moa_shim::present % 32 / 4, t = moa_shim::present % 4;
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < 4; k++)
            c[i] = std::fma(moa_shim::of_lane<double>(left, 4 * g + k),
                            moa_shim::of_lane<double>(right, 4 * (2 * t + i) + k), c[i]);
}

#endif
#endif
