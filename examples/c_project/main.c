/* Two emitted kernels in a C program: rows are normalised, then each attends to those before it. */
#include "causal_gqa.h"
#include "rms_norm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1, GROUPS = 2, SHARED = 4, ROWS = 300, DK = 64, DV = 32, THREADS = 4 };
enum { HEADS = BATCH * GROUPS * SHARED, KEYS = BATCH * GROUPS };

static float *filled(size_t count, unsigned seed)
{
    float *x = malloc(count * sizeof *x);
    if (x == NULL) exit(2);
    for (size_t k = 0; k < count; k++) {
        seed = seed * 1664525u + 1013904223u;
        x[k] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

static void *space(size_t bytes)
{
    void *p = bytes ? malloc(bytes) : NULL;
    if (p == NULL) exit(2);
    return p;
}

static void stop_unless_ok(const char *what, int code, const char *text)
{
    if (code == 0) return;
    fprintf(stderr, "%s: %s\n", what, text);
    exit(2);
}

/* one element of the result, by the definition */
static double expected(const float *q, const float *k, const float *v, int row, int column)
{
    double total = 0, sum = 0, most = -INFINITY;
    double s[ROWS];
    for (int j = 0; j <= row; j++) {
        s[j] = 0;
        for (int d = 0; d < DK; d++) s[j] += (double)q[row * DK + d] * (double)k[j * DK + d];
        s[j] /= sqrt(DK);
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
    const size_t queries = (size_t)HEADS * ROWS * DK, keys = (size_t)KEYS * ROWS * DK, values = (size_t)KEYS * ROWS * DV;
    const size_t results = (size_t)HEADS * ROWS * DV;
    float *x = filled(queries, 1), *k = filled(keys, 2), *v = filled(values, 3), *weight = filled(DK, 4);
    float *q = space(queries * sizeof *q), *out = space(results * sizeof *out);
    const size_t norm_bytes = rms_norm_workspace((int64_t)HEADS * ROWS, DK, THREADS);
    const size_t attend_bytes = causal_gqa_workspace(BATCH, GROUPS, SHARED, ROWS, DK, DV, THREADS);
    void *norm_space = space(norm_bytes), *attend_space = space(attend_bytes);
    double worst = 0;
    int code;

    code = rms_norm(x, weight, (int64_t)HEADS * ROWS, DK, q, norm_space, norm_bytes);
    stop_unless_ok("rms_norm", code, rms_norm_error(code));
    code = causal_gqa(q, k, v, BATCH, GROUPS, SHARED, ROWS, DK, DV, out, attend_space, attend_bytes);
    stop_unless_ok("causal_gqa", code, causal_gqa_error(code));

    for (int head = 0; head < HEADS; head++) {
        const int key = head / SHARED;
        for (int row = 0; row < ROWS; row += 23) {
            const double found = (double)out[((size_t)head * ROWS + (size_t)row) * DV + 5];
            const double meant = expected(q + (size_t)head * ROWS * DK, k + (size_t)key * ROWS * DK,
                                          v + (size_t)key * ROWS * DV, row, 5);
            if (!(fabs(found - meant) <= worst)) worst = fabs(found - meant);
        }
    }
    printf("largest difference from the definition: %.2g\n", worst);
    free(x), free(k), free(v), free(weight), free(q), free(out), free(norm_space), free(attend_space);
    return worst < 1e-5 ? EXIT_SUCCESS : EXIT_FAILURE;
}
