/* Key/value rows into the ring of window rows, a block a token. Equal to the twin bit for bit. */
#include "kernels/cuda/rows_encode.cuh"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS)
    kv_store_kernel(struct kv_store_args args, int32_t row_bytes)
{
    launch_chain();
    int t = (int)blockIdx.x;
    int slot = args.positions[t] % args.capacity;
    bool later = false; /* of tokens that share a slot the last one wins */
    for (int i = t + 1 + (int)threadIdx.x; i < args.tokens; i += THREADS)
        later |= args.positions[i] % args.capacity == slot;
    if (__syncthreads_or(later)) return;
    rows_encode(args.format, args.x + (size_t)t * (size_t)(args.format.plain + args.format.rotary),
                args.rows + (size_t)slot * (size_t)row_bytes);
}

extern "C" void cuda_kv_store(struct stream *stream, const struct kv_store_args *args)
{
    SL_ASSERT(rows_supported(&args->format));
    SL_ASSERT(args->capacity >= 1);
    SL_LAUNCH(stream, kv_store_kernel, (unsigned)args->tokens, THREADS, 0, *args,
              (int32_t)row_format_bytes(&args->format));
}
