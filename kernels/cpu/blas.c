/* Loading OpenBLAS and calling it; see the header. */
#include "kernels/cpu/blas.h"

#include "kernels/cpu/stream.h"

#include <stdlib.h>
#include <string.h>

#ifdef SL_WITH_BLAS

#include <cblas.h>
#include <dlfcn.h>

#define LIBRARY "libopenblas.so.0"

struct blas {
    void *library;
    __typeof__(cblas_sgemm) *sgemm;
};

enum sl_status blas_open(struct blas **out)
{
    struct blas *blas = malloc(sizeof *blas);
    if (!blas) return SL_ERR_NO_MEMORY;
    __typeof__(openblas_set_num_threads) *set_threads = NULL;
    void *symbol = NULL;
    blas->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!blas->library) goto fail;
    /* A function's address comes as an object's; POSIX lets its bytes be taken over. */
    symbol = dlsym(blas->library, "cblas_sgemm");
    memcpy(&blas->sgemm, &symbol, sizeof symbol);
    if (!symbol) goto fail;
    symbol = dlsym(blas->library, "openblas_set_num_threads");
    memcpy(&set_threads, &symbol, sizeof symbol);
    if (!symbol) goto fail;
    set_threads(1);
    *out = blas;
    return SL_OK;
fail:
    blas_close(blas);
    return SL_ERR_UNSUPPORTED;
}

void blas_close(struct blas *blas)
{
    if (!blas) return;
    if (blas->library) dlclose(blas->library);
    free(blas);
}

void blas_multiply(const struct blas *blas, const struct blas_product *product)
{
    SL_ASSERT(product->tokens > 0 && product->rows > 0 && product->columns > 0);
    blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, product->tokens, product->rows,
                product->columns, 1.0f, product->x, product->x_stride, product->weights,
                product->weights_stride, product->add ? 1.0f : 0.0f, product->out,
                product->out_stride);
}

#else

enum sl_status blas_open(struct blas **out)
{
    (void)out;
    return SL_ERR_UNSUPPORTED;
}

void blas_close(struct blas *blas)
{
    (void)blas;
}

void blas_multiply(const struct blas *blas, const struct blas_product *product)
{
    (void)blas, (void)product;
    SL_ASSERT(false); /* no stream of this build holds an OpenBLAS */
}

#endif

enum sl_status blas_stream_create(const struct stream_options *options, struct stream **out)
{
    struct blas *blas;
    struct stream *stream;
    SL_TRY(blas_open(&blas));
    enum sl_status status = cpu_stream_create(options, &stream);
    if (status != SL_OK) {
        blas_close(blas);
        return status;
    }
    stream->blas = blas;
    *out = stream;
    return SL_OK;
}

void blas_stream_destroy(struct stream *stream)
{
    if (!stream) return;
    struct blas *blas = stream->blas;
    cpu_stream_destroy(stream);
    blas_close(blas);
}
