/* Products by the instructions of warp_instructions.h, for tests: C = A B for 16-bit elements, with copies that overlap.
 *
 * A block of two warps computes 32 x 16 elements; tiles of 16 steps along k are copied two ahead into three places.
 */
#include "warp_instructions.h"

enum { ROWS = 32, COLUMNS = 16, STEPS = 16, PLACES = 3, PITCH = 24 /* elements: rows start in different banks */ };

struct Shapes {
    int64_t n, m, k;
    const uint16_t *a, *b;
    float *c;
};

/* starts the copies of one tile: 16 bytes of a row to each thread, and what is outside becomes 0 */
template <int HEIGHT> static __device__ void start(uint16_t *tile, const uint16_t *from, int64_t row, int64_t column,
                                                   int64_t rows, int64_t columns)
{
    const int thread = (int)threadIdx.y * 32 + (int)threadIdx.x;
    if (thread < HEIGHT * 2) {
        const int64_t i = row + thread / 2, j = column + thread % 2 * 8;
        const int64_t left = i < rows && j < columns ? columns - j : 0;
        const int bytes = left >= 8 ? 16 : (int)left * 2;
        copy16(tile + thread / 2 * PITCH + thread % 2 * 8, bytes ? from + i * columns + j : from, bytes);
    }
}

template <bool HALF> static __device__ void product(const Shapes &s)
{
    extern __shared__ __align__(128) unsigned char moa_shared[];
    uint16_t *const left = (uint16_t *)moa_shared, *const right = left + PLACES * ROWS * PITCH;
    const int lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    const int64_t across = (s.m + COLUMNS - 1) / COLUMNS;
    const int64_t row = blockIdx.x / across * ROWS, column = blockIdx.x % across * COLUMNS;
    const int tiles = (int)((s.k + STEPS - 1) / STEPS);
    float c[2][4] = {};
    for (int t = 0; t < tiles + 2; t++) {
        if (t < tiles) {
            start<ROWS>(left + t % PLACES * ROWS * PITCH, s.a, row, (int64_t)t * STEPS, s.n, s.k);
            start<STEPS>(right + t % PLACES * STEPS * PITCH, s.b, (int64_t)t * STEPS, column, s.k, s.m);
        }
        copies_commit();
        if (t < 2) continue;
        copies_wait<2>();
        __syncthreads(); /* the tile is here */
        const uint16_t *const x = left + (t - 2) % PLACES * ROWS * PITCH, *const y = right + (t - 2) % PLACES * STEPS * PITCH;
        uint32_t a[4], b[4];
        matrices(a, x + (warp * 16 + lane % 16) * PITCH + lane / 16 * 8);
        matrices_transposed(b, y + lane % 16 * PITCH + lane / 16 * 8);
        const uint32_t near[2] = {b[0], b[1]}, far[2] = {b[2], b[3]};
        if (HALF) {
            multiply_f16(c[0], a, near);
            multiply_f16(c[1], a, far);
        } else {
            multiply_bf16(c[0], a, near);
            multiply_bf16(c[1], a, far);
        }
        __syncthreads(); /* its place may be written again */
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 4; i++) {
            const int64_t r = row + warp * 16 + lane / 4 + i / 2 * 8, q = column + h * 8 + lane % 4 * 2 + i % 2;
            if (r < s.n && q < s.m) s.c[r * s.m + q] = c[h][i];
        }
}

extern "C" __global__ void product_bf16(const Shapes s) { product<false>(s); }
extern "C" __global__ void product_f16(const Shapes s) { product<true>(s); }

/* One instruction: 16 x 8 = 16 x 8 times 8 x 8, and 8 x 8 = 8 x 4 times 4 x 8, operands as rows; a warp. */
extern "C" __global__ void product_tf32(const Shapes s)
{
    const float *const x = (const float *)s.a, *const y = (const float *)s.b;
    const int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    const float left[4] = {x[g * 8 + t], x[(g + 8) * 8 + t], x[g * 8 + t + 4], x[(g + 8) * 8 + t + 4]};
    const float right[2] = {y[t * 8 + g], y[(t + 4) * 8 + g]};
    uint32_t a[4], b[2];
    float c[4] = {};
    memcpy(a, left, sizeof a);
    memcpy(b, right, sizeof b);
    multiply_tf32(c, a, b);
    for (int i = 0; i < 4; i++) s.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}

extern "C" __global__ void product_f64(const Shapes s)
{
    const double *const x = (const double *)s.a, *const y = (const double *)s.b;
    const int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    double c[2] = {};
    multiply_f64(c, x[g * 4 + t], y[t * 8 + g]);
    for (int i = 0; i < 2; i++) ((double *)s.c)[g * 8 + 2 * t + i] = c[i];
}

extern "C" int product_start(int which, const Shapes *s)
{
    void (*const kernels[])(const Shapes) = {product_bf16, product_f16, product_tf32, product_f64};
    const int64_t blocks = (s->n + ROWS - 1) / ROWS * ((s->m + COLUMNS - 1) / COLUMNS);
    void *args[] = {(void *)s};
    const size_t bytes = sizeof(uint16_t) * PLACES * PITCH * (ROWS + STEPS);
    return (int)cudaLaunchKernel(kernels[which], dim3(which < 2 ? (unsigned)blocks : 1), dim3(32, which < 2 ? 2 : 1), args,
                                 bytes, nullptr);
}
