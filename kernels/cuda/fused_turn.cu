/* From one sublayer to the next in two launches, for up to 16 tokens; of more fused_turn_wide.cu.
 *
 * The first: a block takes 64 channels of all streams and tokens, sums the experts' rows, mixes the
 * streams in place, and multiplies its channels by the weights of the next mix, which it loads
 * before anything else. The second: a token's blocks add these parts in order; one folds and norms
 * the input, the other iterates for the factors of the next turn, side by side.
 *
 * Against the chain of twins: what goes into the streams is equal bit for bit; sums of products and
 * of squares go in another order, 2e-6 of the largest, so with `round` one bf16 step, rarely. */
#include "kernels/cuda/fused_turn.cuh"
#include "kernels/cuda/hyper_factors.cuh"
#include "kernels/cuda/hyper_post.cuh"

#define STREAMS       TURN_STREAMS
#define ROWS          TURN_ROWS
#define SUMS          TURN_SUMS
#define CHANNELS      TURN_CHANNELS
#define THREADS       256
#define WARPS         (THREADS / WARP_LANES)
#define WARP_ROWS     (ROWS / WARPS)
#define TOGETHER      (THREADS / CHANNELS) /* tokens */
#define LANE_CHANNELS 8
#define FOLD_MAX      (TURN_HIDDEN_MAX / HYPER_THREADS)
#define PAIRS_MAX     (FUSED_TOKENS_MAX * OPS_EXPERTS_PER_TOKEN_MAX)

struct turn {
    struct fused_turn_args args;
    float *parts; /* [tokens, SUMS, blocks] */
    int32_t blocks;
};

/* The rows that the host has computed, for this block. */
__device__ __forceinline__ void find_host_rows(const struct fused_turn_args &args,
                                               bool (&from_host)[PAIRS_MAX])
{
    int32_t pairs = args.routed ? args.post.tokens * args.top : 0;
    for (int32_t i = (int32_t)threadIdx.x; i < pairs; i += THREADS)
        from_host[i] = false;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; args.gather && i < pairs; i += THREADS)
        if (args.gather[i] >= 0) from_host[args.gather[i]] = true;
    __syncthreads();
}

/* Channel c of what the sublayer gave for token t. */
__device__ __forceinline__ float output_of(const struct fused_turn_args &args,
                                           const bool (&from_host)[PAIRS_MAX], int32_t t, int32_t c)
{
    size_t hidden = (size_t)args.post.hidden;
    float own = args.post.x[(size_t)t * hidden + (size_t)c];
    if (!args.routed) return own;
    float sum = 0.0f;
#pragma unroll 8
    for (int32_t k = 0; k < args.top; k++) {
        int32_t row = t * args.top + k;
        size_t at = (size_t)row * hidden + (size_t)c;
        /* Mapped memory past the caches: another pass has read other bytes there. */
        sum += from_host[row] ? __ldcv(args.host_routed + at) : args.routed[at];
    }
    return round_if(sum + own, args.post.round);
}

/* Mixes channel c of token t's streams in place, and shows the new ones. */
__device__ __forceinline__ void mix_channel(const struct hyper_post_args &post, int32_t t,
                                            int32_t c, float x, float (*shown)[CHANNELS])
{
    float mixed[STREAMS];
    hyper_post_channel<STREAMS>(post, (size_t)t, c, x, mixed);
#pragma unroll
    for (int j = 0; j < STREAMS; j++)
        shown[j][c % CHANNELS] = mixed[j];
}

/* By a warp: products of its rows of fn with a token's new channels, and, by the first, the sum of
 * their squares. A lane has eight channels of one stream. */
__device__ __forceinline__ void multiply_token(const struct turn &turn, int32_t t,
                                               const float4 (&weights)[WARP_ROWS][2],
                                               const float (*shown)[CHANNELS])
{
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    const float4 *in =
        reinterpret_cast<const float4 *>(shown[lane / LANE_CHANNELS]) + lane % LANE_CHANNELS * 2;
    float4 low = in[0];
    float4 high = in[1];
    float *parts = turn.parts + (size_t)t * SUMS * (size_t)turn.blocks + blockIdx.x;
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        const float4 *w = weights[r];
        float sum = w[0].x * low.x;
        sum = fmaf(w[0].y, low.y, sum);
        sum = fmaf(w[0].z, low.z, sum);
        sum = fmaf(w[0].w, low.w, sum);
        sum = fmaf(w[1].x, high.x, sum);
        sum = fmaf(w[1].y, high.y, sum);
        sum = fmaf(w[1].z, high.z, sum);
        sum = warp_sum(fmaf(w[1].w, high.w, sum));
        if (lane == 0) parts[(size_t)(warp * WARP_ROWS + r) * (size_t)turn.blocks] = sum;
    }
    if (warp > 0) return;
    float squares = low.x * low.x;
    squares = fmaf(low.y, low.y, squares);
    squares = fmaf(low.z, low.z, squares);
    squares = fmaf(low.w, low.w, squares);
    squares = fmaf(high.x, high.x, squares);
    squares = fmaf(high.y, high.y, squares);
    squares = fmaf(high.z, high.z, squares);
    squares = warp_sum(fmaf(high.w, high.w, squares));
    if (lane == 0) parts[(size_t)ROWS * (size_t)turn.blocks] = squares;
}

/* Grid: blocks of channels. */
static __global__ void __launch_bounds__(THREADS) turn_write_kernel(const struct turn turn)
{
    __shared__ __align__(16) float shown[TOGETHER][STREAMS][CHANNELS];
    __shared__ bool from_host[PAIRS_MAX];
    static_assert(WARP_ROWS * WARPS == ROWS, "every row of fn has its warp");
    static_assert(STREAMS * LANE_CHANNELS == WARP_LANES && 8 * LANE_CHANNELS == CHANNELS, "lanes");
    const struct fused_turn_args &args = turn.args;
    launch_next();
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    size_t hidden = (size_t)args.post.hidden;
    size_t column = (size_t)(lane / LANE_CHANNELS) * hidden + (size_t)blockIdx.x * CHANNELS +
                    (size_t)(lane % LANE_CHANNELS) * 8;
    float4 weights[WARP_ROWS][2];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) { /* Before launch_await: weights */
        const float *at = args.fn + (size_t)(warp * WARP_ROWS + r) * STREAMS * hidden + column;
        weights[r][0] = *reinterpret_cast<const float4 *>(at);
        weights[r][1] = *reinterpret_cast<const float4 *>(at + 4);
    }
    launch_await();
    find_host_rows(args, from_host);
    int32_t channel = (int32_t)threadIdx.x % CHANNELS;
    int32_t place = (int32_t)threadIdx.x / CHANNELS;
    int32_t c = (int32_t)blockIdx.x * CHANNELS + channel;
    for (int32_t first = 0; first < args.post.tokens; first += TOGETHER) {
        int32_t t = first + place;
        if (t < args.post.tokens)
            mix_channel(args.post, t, c, output_of(args, from_host, t, c), shown[place]);
        __syncthreads();
        for (int32_t i = 0; i < min(TOGETHER, args.post.tokens - first); i++)
            multiply_token(turn, first + i, weights, shown[i]);
        __syncthreads(); /* the shown channels become the next tokens' */
    }
}

/* Adds the parts of a token in order: sums [SUMS], by all warps of the block. */
__device__ __forceinline__ void add_parts(const struct turn &turn, int32_t t, float *sums)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    for (int32_t r = (int32_t)threadIdx.x / WARP_LANES; r < SUMS;
         r += (int32_t)blockDim.x / WARP_LANES) {
        const float *parts = turn.parts + ((size_t)t * SUMS + (size_t)r) * (size_t)turn.blocks;
        float sum = 0.0f;
        for (int32_t b = lane; b < turn.blocks; b += WARP_LANES)
            sum += parts[b];
        sum = warp_sum(sum);
        if (lane == 0) sums[r] = sum;
    }
    __syncthreads();
}

/* The input of token t: its streams folded and normed. */
__device__ __forceinline__ void write_input(const struct fused_turn_args &args, int32_t t,
                                            const float *factors, float *warp_parts)
{
    const struct hyper_pre_args &pre = args.pre;
    size_t hidden = (size_t)pre.hidden;
    const float *streams = pre.streams + (size_t)t * STREAMS * hidden;
    float folded[FOLD_MAX];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < FOLD_MAX; i++) {
        int32_t c = i * HYPER_THREADS + (int32_t)threadIdx.x;
        if (c >= pre.hidden) continue;
        float sum = factors[0] * streams[c];
        for (int s = 1; s < STREAMS; s++)
            sum += factors[s] * streams[(size_t)s * hidden + (size_t)c];
        folded[i] = round_if(sum, pre.round);
        squares = fmaf(folded[i], folded[i], squares);
    }
    squares = block_sum(squares, warp_parts);
    float inverse = 1.0f / sqrtf(squares / (float)pre.hidden + pre.norm_epsilon);
#pragma unroll
    for (int i = 0; i < FOLD_MAX; i++) {
        int32_t c = i * HYPER_THREADS + (int32_t)threadIdx.x;
        if (c < pre.hidden)
            pre.x[(size_t)t * hidden + (size_t)c] =
                round_if(bf16_decode(args.norm[c]) * (folded[i] * inverse), pre.round);
    }
}

/* Grid (2, tokens): the input, the factors. */
static __global__ void __launch_bounds__(HYPER_THREADS) turn_read_kernel(const struct turn turn)
{
    __shared__ float sums[SUMS];
    __shared__ float factors[STREAMS];
    __shared__ float warp_parts[WARPS_MAX];
    launch_chain();
    const struct hyper_pre_args &pre = turn.args.pre;
    int32_t t = (int32_t)blockIdx.y;
    int32_t i = (int32_t)threadIdx.x;
    add_parts(turn, t, sums);
    float inverse = 1.0f / sqrtf(sums[ROWS] / (float)(STREAMS * pre.hidden) + pre.norm_epsilon);
    if (blockIdx.x == 1) {
        if (i < WARP_LANES) hyper_write_factors(pre, (size_t)t, sums, inverse);
        return;
    }
    if (i < STREAMS)
        factors[i] = hyper_mix_factor(sums[i], inverse, pre.scale[0], pre.base[i]) + pre.epsilon;
    __syncthreads();
    write_input(turn.args, t, factors, warp_parts);
}

extern "C" bool cuda_fused_turn(struct stream *stream, const struct fused_turn_args *args)
{
    const struct hyper_post_args *post = &args->post;
    SL_ASSERT(args->pre.tokens == post->tokens && args->pre.hidden == post->hidden);
    SL_ASSERT(args->pre.streams == post->streams);
    SL_ASSERT(!args->routed || (args->top >= 1 && args->top <= OPS_EXPERTS_PER_TOKEN_MAX));
    if (post->streams_count != STREAMS) return false;
    if (post->hidden % CHANNELS != 0 || post->hidden > TURN_HIDDEN_MAX) return false;
    if (post->tokens > FUSED_TOKENS_MAX) return !args->gather && turn_wide(stream, args);
    if (reinterpret_cast<uintptr_t>(args->fn) % 16 != 0) return false;
    struct turn turn = {.args = *args,
                        .parts = reinterpret_cast<float *>(stream->scratch),
                        .blocks = post->hidden / CHANNELS};
    SL_LAUNCH(stream, turn_write_kernel, post->tokens > 0 ? (unsigned)turn.blocks : 0u, THREADS, 0,
              turn);
    SL_LAUNCH(stream, turn_read_kernel, dim3(2, (unsigned)post->tokens), HYPER_THREADS, 0, turn);
    return true;
}
