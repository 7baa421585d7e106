/* Loading cuBLASLt and calling it; see the header. */
#include "kernels/cuda/cublas.h"

#include "kernels/cuda/stream.h"

#ifdef SL_WITH_CUBLASLT

#include <cublasLt.h>
#include <dlfcn.h>
#include <string.h>

#define PLANS_MAX 64

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
/* The major version whose header this was compiled with: others may number their constants anew. */
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

#define FUNCTIONS(X)                                                                               \
    X(cublasLtGetVersion)                                                                          \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmul)

/* How the library multiplies matrices of some sizes. Its matrices lie column by column, so W is the
 * first operand, [columns, rows] and transposed, x the second, [columns, tokens]. */
struct plan {
    enum cublas_format format;
    int32_t tokens, rows, columns;
    size_t workspace_from;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weight, x, out;
    cublasLtMatmulAlgo_t algorithm;
    bool possible;
};

struct cublas {
    void *library;
    cublasLtHandle_t handle;
    int32_t version;
    struct plan plans[PLANS_MAX]; /* the oldest gives way */
    int32_t plan_count, next;
#define X(function) __typeof__(function) *function;
    FUNCTIONS(X)
#undef X
};

static bool find_functions(struct cublas *cublas)
{
    void *symbol = NULL;
    /* A function's address comes as an object's; POSIX lets its bytes be taken over. */
#define X(function)                                                                                \
    symbol = dlsym(cublas->library, #function);                                                    \
    if (!symbol) return false;                                                                     \
    memcpy(&cublas->function, &symbol, sizeof symbol);
    FUNCTIONS(X)
#undef X
    return true;
}

enum sl_status cublas_open(struct cublas **out, struct sl_error *error)
{
    *out = NULL;
    struct cublas *cublas = calloc(1, sizeof *cublas);
    if (!cublas) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for cuBLASLt");
    cublas->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!cublas->library) {
        const char *why = dlerror();
        (void)sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "no cuBLASLt: %s", why ? why : LIBRARY);
    } else if (!find_functions(cublas)) {
        (void)sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "%s lacks a function", LIBRARY);
    } else if (cublas->cublasLtCreate(&cublas->handle) != CUBLAS_STATUS_SUCCESS) {
        cublas->handle = NULL;
        (void)sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "%s does not start on this device",
                           LIBRARY);
    } else {
        cublas->version = (int32_t)cublas->cublasLtGetVersion();
        *out = cublas;
        return SL_OK;
    }
    cublas_close(cublas);
    return SL_ERR_UNSUPPORTED;
}

static void forget(struct cublas *cublas, struct plan *plan)
{
    if (plan->operation) (void)cublas->cublasLtMatmulDescDestroy(plan->operation);
    if (plan->weight) (void)cublas->cublasLtMatrixLayoutDestroy(plan->weight);
    if (plan->x) (void)cublas->cublasLtMatrixLayoutDestroy(plan->x);
    if (plan->out) (void)cublas->cublasLtMatrixLayoutDestroy(plan->out);
    *plan = (struct plan){0};
}

void cublas_close(struct cublas *cublas)
{
    if (!cublas) return;
    for (int32_t i = 0; i < cublas->plan_count; i++)
        forget(cublas, &cublas->plans[i]);
    if (cublas->handle) (void)cublas->cublasLtDestroy(cublas->handle);
    if (cublas->library) (void)dlclose(cublas->library);
    free(cublas);
}

int32_t cublas_version(const struct cublas *cublas)
{
    return cublas->version;
}

static bool set(struct cublas *cublas, struct plan *plan, cublasLtMatmulDescAttributes_t attribute,
                const void *value, size_t bytes)
{
    return cublas->cublasLtMatmulDescSetAttribute(plan->operation, attribute, value, bytes) ==
           CUBLAS_STATUS_SUCCESS;
}

static bool lay_out(struct cublas *cublas, cublasLtMatrixLayout_t *layout, cudaDataType type,
                    int32_t rows, int32_t columns)
{
    return cublas->cublasLtMatrixLayoutCreate(layout, type, (uint64_t)rows, (uint64_t)columns,
                                              rows) == CUBLAS_STATUS_SUCCESS;
}

/* Scales for each 128 x 128 of W and each 128 columns of x. Sums that are not handed on to f32
 * now and then ("fast accumulation") are off unless asked for. */
static bool scale_blocks(struct cublas *cublas, struct plan *plan)
{
#if CUBLAS_VERSION >= 120900
    const int32_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
    const int32_t vectors = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    return cublas->version >= 120900 &&
           set(cublas, plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &blocks, sizeof blocks) &&
           set(cublas, plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &vectors, sizeof vectors);
#else
    (void)cublas, (void)plan;
    return false;
#endif
}

static bool describe(struct cublas *cublas, struct plan *plan)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    bool fp8 = plan->format == CUBLAS_FP8_BLOCKS;
    cudaDataType type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    return cublas->cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
               CUBLAS_STATUS_SUCCESS &&
           set(cublas, plan, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) &&
           (!fp8 || scale_blocks(cublas, plan)) &&
           lay_out(cublas, &plan->weight, type, plan->columns, plan->rows) &&
           lay_out(cublas, &plan->x, type, plan->columns, plan->tokens) &&
           lay_out(cublas, &plan->out, fp8 ? CUDA_R_32F : CUDA_R_16BF, plan->rows, plan->tokens);
}

/* The algorithm that the library thinks fastest. */
static bool choose(struct cublas *cublas, struct plan *plan)
{
    const size_t workspace_bytes = CUDA_SCRATCH_BYTES - plan->workspace_from;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result = {0};
    int found = 0;
    bool good = cublas->cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS &&
                cublas->cublasLtMatmulPreferenceSetAttribute(
                    preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                    sizeof workspace_bytes) == CUBLAS_STATUS_SUCCESS &&
                cublas->cublasLtMatmulAlgoGetHeuristic(
                    cublas->handle, plan->operation, plan->weight, plan->x, plan->out, plan->out,
                    preference, 1, &result, &found) == CUBLAS_STATUS_SUCCESS;
    if (preference) (void)cublas->cublasLtMatmulPreferenceDestroy(preference);
    plan->algorithm = result.algo;
    return good && found == 1 && result.state == CUBLAS_STATUS_SUCCESS;
}

/* Of a product's sizes: the one that was made for them, or a new one. */
static struct plan *plan_of(struct cublas *cublas, const struct cublas_product *product)
{
    SL_ASSERT(product->tokens > 0 && product->rows > 0 && product->columns > 0);
    for (int32_t i = 0; i < cublas->plan_count; i++) {
        struct plan *plan = &cublas->plans[i];
        if (plan->format == product->format && plan->tokens == product->tokens &&
            plan->rows == product->rows && plan->columns == product->columns &&
            plan->workspace_from == product->workspace_from)
            return plan;
    }
    struct plan *plan = &cublas->plans[cublas->next];
    forget(cublas, plan);
    cublas->next = (cublas->next + 1) % PLANS_MAX;
    if (cublas->plan_count < PLANS_MAX) cublas->plan_count++;
    plan->format = product->format;
    plan->tokens = product->tokens, plan->rows = product->rows, plan->columns = product->columns;
    plan->workspace_from = product->workspace_from;
    plan->possible = describe(cublas, plan) && choose(cublas, plan);
    return plan;
}

bool cublas_can(struct cublas *cublas, const struct cublas_product *product)
{
    return plan_of(cublas, product)->possible;
}

void cublas_multiply(struct cublas *cublas, struct stream *stream,
                     const struct cublas_product *product)
{
    const float one = 1.0f, zero = 0.0f;
    const struct cublas_product *p = product;
    struct plan *plan = plan_of(cublas, product);
    bool good = true;
    SL_ASSERT(plan->possible);
    if (stream->fault != cudaSuccess || stream->loading) return;
    if (p->format == CUBLAS_FP8_BLOCKS)
        good =
            set(cublas, plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->weight_scale,
                sizeof p->weight_scale) &&
            set(cublas, plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->x_scale, sizeof p->x_scale);
    stream->after_kernel = false; /* its kernels do not wait as ours do (launch.cuh) */
    good = good && cublas->cublasLtMatmul(
                       cublas->handle, plan->operation, &one, p->weight, plan->weight, p->x,
                       plan->x, &zero, p->out, plan->out, p->out, plan->out, &plan->algorithm,
                       stream->scratch + p->workspace_from, CUDA_SCRATCH_BYTES - p->workspace_from,
                       stream->handle) == CUBLAS_STATUS_SUCCESS;
    if (!good) stream_latch(stream, cudaErrorUnknown, "cuBLASLt");
    stream->launches++;
}

#else

enum sl_status cublas_open(struct cublas **out, struct sl_error *error)
{
    *out = NULL;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "this build knows nothing of cuBLASLt");
}

void cublas_close(struct cublas *cublas)
{
    SL_ASSERT(cublas == NULL);
}

int32_t cublas_version(const struct cublas *cublas)
{
    (void)cublas;
    return 0;
}

bool cublas_can(struct cublas *cublas, const struct cublas_product *product)
{
    (void)cublas, (void)product;
    return false;
}

void cublas_multiply(struct cublas *cublas, struct stream *stream,
                     const struct cublas_product *product)
{
    (void)cublas, (void)stream, (void)product;
    SL_ASSERT(false); /* no stream of this build holds the library */
}

#endif
