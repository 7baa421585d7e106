"""Pieces of the forward pass, each a function of tensors; the formulas are those of the published
inference program, with its rounding points.

Activations are bf16 between pieces. N counts tokens of all rows of a batch together; attention
alone sees rows: B rows of T tokens. D hidden, M streams, H heads, h head_dim, r rotary.
"""

import math

import torch
import torch.nn.functional as F

from numerics import quantize_e2m1, quantize_e4m3, straight_through

# What activations are rounded to between pieces: bf16 as published; f32 for outputs to compare with
# an implementation that rounds nowhere.
ACTIVATION = torch.bfloat16


def linear(x, weight):
    """x [.., in] bf16 times weight [out, in] f32, whose values bf16 holds: [.., out] bf16."""
    return F.linear(x, weight.to(x.dtype))


def quantized_input(x, is_quantized, block=128):
    """What a quantised linear sees of x bf16: e4m3 by blocks, in bf16, which holds it exactly."""
    if not is_quantized:
        return x
    return straight_through(x, quantize_e4m3(x.float(), block).to(ACTIVATION))


def rms(x, weight, epsilon):
    x = x.float()
    return (weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon))).to(ACTIVATION)


# ---- hyper-connections --------------------------------------------------------------------------


def sinkhorn(logits, iterations, epsilon):
    """logits [M, M, N] (source, destination, token) to doubly stochastic matrices."""
    a = torch.exp(logits - logits.amax(1, keepdim=True))
    a = a / a.sum(1, keepdim=True) + epsilon
    a = a / (a.sum(0, keepdim=True) + epsilon)
    for _ in range(iterations - 1):
        a = a / (a.sum(1, keepdim=True) + epsilon)
        a = a / (a.sum(0, keepdim=True) + epsilon)
    return a


def hyper_mix(streams, fn, scale, base, norm_epsilon):
    """streams [N, M, D] to scaled mixes, f32 [outputs, N]; scale holds one factor per output."""
    flat = streams.flatten(1).float()
    root = torch.rsqrt(flat.square().mean(-1) + norm_epsilon)
    return (fn @ flat.t()) * root * scale.unsqueeze(1) + base.unsqueeze(1)


def weighted_streams(weights, streams):
    """weights [M, N] f32, streams [N, M, D]: their sum [N, D] bf16."""
    out = weights[0].unsqueeze(1) * streams[:, 0].float()
    for m in range(1, streams.shape[1]):
        out = out + weights[m].unsqueeze(1) * streams[:, m].float()
    return out.to(ACTIVATION)


def hyper_pre(streams, fn, scale, base, norm_weight, iterations, norm_epsilon, epsilon):
    """streams [N, M, D] to the sublayer's normed input [N, D], post [M, N] and comb [M, M, N]."""
    m = streams.shape[1]
    spread = torch.cat([scale[0].expand(m), scale[1].expand(m), scale[2].expand(m * m)])
    mixes = hyper_mix(streams, fn, spread, base, norm_epsilon)
    pre = torch.sigmoid(mixes[:m]) + epsilon
    post = 2 * torch.sigmoid(mixes[m : 2 * m])
    comb = sinkhorn(mixes[2 * m :].reshape(m, m, -1), iterations, epsilon)
    return rms(weighted_streams(pre, streams), norm_weight, norm_epsilon), post, comb


def hyper_post(x, streams, post, comb):
    """The sublayer's output x [N, D] back into the streams [N, M, D]."""
    m = streams.shape[1]
    x, parts = x.float(), [streams[:, i].float() for i in range(m)]
    out = []
    for j in range(m):
        y = post[j].unsqueeze(1) * x
        for i in range(m):
            y = y + comb[i, j].unsqueeze(1) * parts[i]
        out.append(y.to(ACTIVATION))
    return torch.stack(out, 1)


def hyper_head(streams, fn, scale, base, norm_weight, norm_epsilon, epsilon):
    """streams [N, M, D] to the normed input of the output matrix [N, D] bf16."""
    mixes = hyper_mix(streams, fn, scale.expand(streams.shape[1]), base, norm_epsilon)
    return rms(weighted_streams(torch.sigmoid(mixes) + epsilon, streams), norm_weight, norm_epsilon)


# ---- attention ----------------------------------------------------------------------------------


def rope_frequencies(config, ratio):
    """Angles per position, f32 [r / 2]: plain for ratio 0, YaRN with the other base elsewhere."""
    rotary = config["qk_rope_head_dim"]
    theta = config["compress_rope_theta"] if ratio else config["rope_theta"]
    exponent = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
    base = 1.0 / torch.pow(torch.tensor(float(theta)), exponent)
    if not ratio:
        return base
    scaling = config["rope_scaling"]

    def correction(turns):
        length = scaling["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return rotary * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(correction(scaling["beta_fast"])), 0)
    high = min(math.ceil(correction(scaling["beta_slow"])), rotary - 1)
    high += 0.001 if low == high else 0
    ramp = ((torch.arange(rotary // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return base / scaling["factor"] * ramp + base * (1 - ramp)


def rotate(x, cosine, sine):
    """Rotates adjacent pairs of the last dimension; -sine undoes it. Result bf16."""
    pairs = x.float().unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    out = torch.stack([a * cosine - b * sine, a * sine + b * cosine], -1)
    return out.flatten(-2).to(ACTIVATION)


def rotate_tail(x, cosine, sine, rotary):
    return torch.cat([x[..., :-rotary], rotate(x[..., -rotary:], cosine, sine)], -1)


def quantize_row(x, rotary, is_quantized):
    """A key-value row: e4m3 by 64 in all but the rotary part."""
    if not is_quantized:
        return x
    plain = quantized_input(x[..., :-rotary], True, 64)
    return torch.cat([plain, x[..., -rotary:]], -1)


def project_attention(
    x, wq_a, q_norm, wq_b, wkv, kv_norm, cosine, sine, heads, epsilon, is_quantized
):
    """x [N, D] to qr [N, Q], q [N, H, h] and kv [N, h], rotated; cosine and sine [N, r / 2]."""
    rotary = 2 * cosine.shape[-1]
    seen = quantized_input(x, is_quantized)
    qr = rms(linear(seen, wq_a), q_norm, epsilon)
    q = linear(quantized_input(qr, is_quantized), wq_b).unflatten(-1, (heads, -1)).float()
    q = (q * torch.rsqrt(q.square().mean(-1, keepdim=True) + epsilon)).to(ACTIVATION)
    q = rotate_tail(q, cosine.unsqueeze(1), sine.unsqueeze(1), rotary)
    kv = rms(linear(seen, wkv), kv_norm, epsilon)
    kv = quantize_row(rotate_tail(kv, cosine, sine, rotary), rotary, is_quantized)
    return qr, q, kv


def compress(x, wkv, wgate, ape, norm_weight, cosine, sine, ratio, epsilon):
    """x [B, T, D] to normed, rotated rows [B, T / ratio, width] bf16, not yet quantised.

    cosine and sine [T, r / 2] by position.
    """
    rows, count = x.shape[0], x.shape[1] // ratio
    x = x[:, : count * ratio].float()
    keys = F.linear(x, wkv).view(rows, count, ratio, -1)
    gates = F.linear(x, wgate).view(rows, count, ratio, -1) + ape
    if ratio == 4:
        width = keys.shape[-1] // 2
        first_keys = torch.zeros_like(keys[:, :1, :, :width])
        first_gates = torch.full_like(first_keys, -torch.inf)
        keys = torch.cat(
            [torch.cat([first_keys, keys[:, :-1, :, :width]], 1), keys[..., width:]], 2
        )
        gates = torch.cat(
            [torch.cat([first_gates, gates[:, :-1, :, :width]], 1), gates[..., width:]], 2
        )
    pooled = (torch.softmax(gates, 2) * keys).sum(2).to(ACTIVATION)
    pooled = rms(pooled, norm_weight, epsilon)
    at = slice(0, count * ratio, ratio)
    return rotate_tail(pooled, cosine[at], sine[at], 2 * cosine.shape[-1])


def hadamard(size):
    """Sylvester's matrix, orthonormal, f32 [size, size]."""
    h = torch.ones(1, 1)
    while h.shape[0] < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h * size**-0.5


def index_rotation(x, matrix, is_quantized):
    x = (x.float() @ matrix).to(ACTIVATION)
    return straight_through(x, quantize_e2m1(x.float()).to(ACTIVATION)) if is_quantized else x


def attend(q, rows, visible, sink):
    """q [B, T, H, h], rows [B, S, h], visible [1 or B, T, S] bool: [B, T, H, h] bf16 and scores."""
    b, t, heads, width = q.shape
    scores = (q.reshape(b, t * heads, width) @ rows.transpose(1, 2)).view(b, t, heads, -1).float()
    scores = scores * width**-0.5
    hidden = scores.masked_fill(~visible.unsqueeze(2), -torch.inf)
    with_sink = torch.cat([hidden, sink.view(1, 1, heads, 1).expand(b, t, heads, 1)], -1)
    weights = torch.softmax(with_sink, -1)[..., :-1].to(q.dtype)
    out = weights.reshape(b, t * heads, -1) @ rows
    return out.view(b, t, heads, width), scores


def project_output(out, wo_a, wo_b, cosine, sine, groups, is_quantized):
    """Heads [N, H, h] to the attention's output [N, D]."""
    rotary = 2 * cosine.shape[-1]
    out = rotate_tail(out, cosine.unsqueeze(1), -sine.unsqueeze(1), rotary)
    parts = out.flatten(1).unflatten(1, (groups, -1)).transpose(0, 1)
    matrix = wo_a.to(out.dtype).unflatten(0, (groups, -1)).transpose(1, 2)
    ranks = torch.bmm(parts, matrix).transpose(0, 1).flatten(1)
    return linear(quantized_input(ranks, is_quantized), wo_b)


# ---- mixture of experts -------------------------------------------------------------------------


def route_scores(x, gate):
    """x [N, D]: how well each expert fits, f32 [N, E]."""
    return torch.sqrt(F.softplus(F.linear(x.float(), gate)))


def gated(hidden, weight, limit, is_quantized):
    """Gate and up side by side [n, 2F] to the input of w2 [n, F], bf16; weight [n, 1] or None."""
    gate, up = hidden.float().chunk(2, -1)
    out = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    if weight is not None:
        out = out * weight
    return quantized_input(out.to(ACTIVATION), is_quantized)
