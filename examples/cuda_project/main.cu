/* Two emitted kernels in one CUDA graph: rows are normalised, then each attends to those before it. */
#include "causal_gqa.h"
#include "rms_norm.h"

#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

enum { BATCH = 1, GROUPS = 2, SHARED = 4, ROWS = 100, DK = 64, DV = 32 };
enum { HEADS = BATCH * GROUPS * SHARED, KEYS = BATCH * GROUPS };

static void stop_unless_ok(const char *what, int code, const char *text)
{
    if (code == 0) return;
    fprintf(stderr, "%s: %s\n", what, text);
    exit(2);
}

static void check(const char *what, cudaError_t code) { stop_unless_ok(what, (int)code, cudaGetErrorString(code)); }

static std::vector<float> filled(size_t count, unsigned seed)
{
    std::vector<float> x(count);
    for (float &v : x) {
        seed = seed * 1664525u + 1013904223u;
        v = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

static void *space(size_t bytes)
{
    void *p = nullptr;
    if (bytes) check("memory", cudaMalloc(&p, bytes));
    return p;
}

static float *on_device(const std::vector<float> &x)
{
    void *p = space(x.size() * sizeof(float));
    check("copy", cudaMemcpy(p, x.data(), x.size() * sizeof(float), cudaMemcpyHostToDevice));
    return (float *)p;
}

/* one element of the result, by the definition */
static double expected(const float *q, const float *k, const float *v, const float *weight, int row, int column)
{
    double total = 0, sum = 0, most = -INFINITY, squares = 0;
    double s[ROWS];
    for (int d = 0; d < DK; d++) squares += (double)q[row * DK + d] * (double)q[row * DK + d];
    for (int j = 0; j <= row; j++) {
        s[j] = 0;
        for (int d = 0; d < DK; d++) s[j] += (double)q[row * DK + d] * (double)weight[d] * (double)k[j * DK + d];
        s[j] /= sqrt((double)DK) * sqrt(squares / DK + 1e-6);
        if (s[j] > most) most = s[j];
    }
    for (int j = 0; j <= row; j++) {
        const double e = exp(s[j] - most);
        total += e;
        sum += e * (double)v[j * DV + column];
    }
    return sum / total;
}

int main(void)
{
    const size_t queries = (size_t)HEADS * ROWS * DK, results = (size_t)HEADS * ROWS * DV;
    const std::vector<float> x = filled(queries, 1), k = filled((size_t)KEYS * ROWS * DK, 2);
    const std::vector<float> v = filled((size_t)KEYS * ROWS * DV, 3), weight = filled(DK, 4);
    std::vector<float> found(results);
    const float *x_device = on_device(x), *k_device = on_device(k), *v_device = on_device(v);
    const float *weight_device = on_device(weight);
    float *q = (float *)space(queries * sizeof(float)), *out = (float *)space(results * sizeof(float));
    size_t norm_bytes = 0, attend_bytes = 0;
    double worst = 0;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    int code = causal_gqa_supported();

    stop_unless_ok("this device", code, causal_gqa_error(code));
    code = rms_norm_workspace((int64_t)HEADS * ROWS, DK, &norm_bytes);
    stop_unless_ok("rms_norm", code, rms_norm_error(code));
    code = causal_gqa_workspace(BATCH, GROUPS, SHARED, ROWS, DK, DV, &attend_bytes);
    stop_unless_ok("causal_gqa", code, causal_gqa_error(code));
    void *norm_space = space(norm_bytes), *attend_space = space(attend_bytes);

    check("stream", cudaStreamCreate(&stream));
    check("capture", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    code = rms_norm(x_device, weight_device, (int64_t)HEADS * ROWS, DK, q, norm_space, norm_bytes, stream);
    stop_unless_ok("rms_norm", code, rms_norm_error(code));
    code = causal_gqa(q, k_device, v_device, BATCH, GROUPS, SHARED, ROWS, DK, DV, out, attend_space, attend_bytes, stream);
    stop_unless_ok("causal_gqa", code, causal_gqa_error(code));
    check("capture", cudaStreamEndCapture(stream, &graph));
    check("graph", cudaGraphInstantiate(&ready, graph, 0));
    check("graph", cudaGraphLaunch(ready, stream));
    check("stream", cudaStreamSynchronize(stream));
    check("copy", cudaMemcpy(found.data(), out, results * sizeof(float), cudaMemcpyDeviceToHost));

    for (int head = 0; head < HEADS; head++) {
        const int key = head / SHARED;
        for (int row = 0; row < ROWS; row += 23) {
            const double meant = expected(&x[(size_t)head * ROWS * DK], &k[(size_t)key * ROWS * DK],
                                          &v[(size_t)key * ROWS * DV], weight.data(), row, 5);
            const double difference = fabs((double)found[((size_t)head * ROWS + (size_t)row) * DV + 5] - meant);
            if (!(difference <= worst)) worst = difference;
        }
    }
    printf("largest difference from the definition: %.2g\n", worst);
    return worst < 1e-5 ? EXIT_SUCCESS : EXIT_FAILURE;
}
