/* bf16 linears of bf16 inputs on the tensor cores: router, head, compressors, indexer weights. */
#include "kernels/cuda/linear_tiles.cuh"

bool linear_tiles_bf16(struct stream *stream, const struct linear_args *args)
{
    if (args->weight.format != MATRIX_BF16 || !args->bf16_input || args->quantise_input)
        return false;
    return linear_tiles_fit(args) && linear_tiles<bf16_plain>(stream, args);
}
