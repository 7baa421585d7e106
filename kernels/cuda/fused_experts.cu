/* Experts behind the wait for their table, in the experts' launches (expert_table.cuh). The same
 * bits as take and expert_ffn. */
#include "kernels/cuda/expert_ffn.cuh"
#include "kernels/fused.h"

extern "C" bool cuda_fused_experts(struct stream *stream, const struct fused_experts_args *args)
{
    struct expert_ffn_work work = {.args = args->experts, .layout = *args->experts.layout};
    SL_ASSERT(args->flag != NULL);
    work.table.pieces = pieces_make(args->pieces, args->piece_count);
    work.table.flag = args->flag;
    work.table.value = args->value;
    work.table.taken = stream->tickets;
    work.table.there = stream->tickets + 1;
    return expert_ffn_few(stream, &work);
}
