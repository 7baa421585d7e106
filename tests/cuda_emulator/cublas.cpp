/* Stands in for cuBLASLt behind kernels/cuda/cublas.h: the product as the library's documentation
 * defines it, a thread an output. */
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

#include <new>

#define THREADS 64
#define BLOCK   128 /* columns, and rows of the weight, of a scale */

struct cublas {
    int32_t version;
};

static __global__ void product_kernel(struct cublas_product p)
{
    launch_chain();
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (int64_t)p.tokens * p.rows) return;
    int32_t token = (int32_t)(at / p.rows), row = (int32_t)(at % p.rows);
    size_t w = (size_t)row * (size_t)p.columns, x = (size_t)token * (size_t)p.columns;
    if (p.format == CUBLAS_BF16) {
        const uint16_t *weight = (const uint16_t *)p.weight, *input = (const uint16_t *)p.x;
        float sum = 0;
        for (int32_t c = 0; c < p.columns; c++)
            sum += bf16_decode(weight[w + (size_t)c]) * bf16_decode(input[x + (size_t)c]);
        ((uint16_t *)p.out)[at] = bf16_encode(sum);
        return;
    }
    const uint8_t *weight = (const uint8_t *)p.weight, *input = (const uint8_t *)p.x;
    int32_t blocks = p.columns / BLOCK, pitch = (blocks + 3) / 4 * 4;
    float sum = 0;
    for (int32_t b = 0; b < blocks; b++) {
        float part = 0;
        for (int32_t c = b * BLOCK; c < (b + 1) * BLOCK; c++)
            part += e4m3_decode(weight[w + (size_t)c]) * e4m3_decode(input[x + (size_t)c]);
        sum += part * p.weight_scale[row / BLOCK * pitch + b] * p.x_scale[b * p.tokens + token];
    }
    ((float *)p.out)[at] = sum;
}

enum sl_status cublas_open(struct cublas **out, struct sl_error *error)
{
    *out = new (std::nothrow) cublas{0};
    return *out ? SL_OK : sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for cuBLASLt");
}

void cublas_close(struct cublas *cublas)
{
    delete cublas;
}

int32_t cublas_version(const struct cublas *cublas)
{
    return cublas->version;
}

bool cublas_can(struct cublas *cublas, const struct cublas_product *product)
{
    (void)cublas;
    return product->format == CUBLAS_BF16 ||
           (product->columns % BLOCK == 0 && product->rows % 4 == 0 && product->tokens % 4 == 0);
}

void cublas_multiply(struct cublas *cublas, struct stream *stream,
                     const struct cublas_product *product)
{
    SL_ASSERT(cublas_can(cublas, product));
    SL_ASSERT(product->workspace_from <= CUDA_SCRATCH_BYTES);
    int64_t outputs = (int64_t)product->tokens * product->rows;
    stream->after_kernel = false;
    SL_LAUNCH(stream, product_kernel, launch_blocks(outputs, THREADS), THREADS, 0, *product);
}
