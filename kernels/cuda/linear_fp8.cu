/* fp8 linears on the tensor cores: with the input's quantisation, and with a bf16 input (wo_a). */
#include "kernels/cuda/linear_tiles.cuh"

bool linear_tiles_fp8(struct stream *stream, const struct linear_args *args)
{
    if (args->weight.format != MATRIX_FP8 || !linear_tiles_fit(args)) return false;
    if (args->quantise_input) return linear_tiles<fp8_quantised>(stream, args);
    return args->bf16_input && linear_tiles<fp8_plain>(stream, args);
}
