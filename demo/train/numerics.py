"""Rounding to the published number formats, with gradients passed straight through.

All functions return values of the input's shape that are exactly representable in the format named;
the scale of a block is the power of two the runtime's kernels would choose (kernels/lowp.h).
"""

import torch

E4M3_MAX = 448.0
E2M1_MAX = 6.0
ACTIVATION_FLOOR = 1e-4
FP4_FLOOR = 6 * 2.0**-126
EXPONENT_BITS = 0x7F800000


def power_of_two_below(x):
    """2**floor(log2 x) of positive f32; 0 for 0 and subnormals."""
    return (x.contiguous().view(torch.int32) & EXPONENT_BITS).view(torch.float32)


def power_of_two_above(x):
    """The smallest power of two that is not below x, of positive f32."""
    return ((x.contiguous().view(torch.int32) + 0x7FFFFF) & EXPONENT_BITS).view(torch.float32)


def round_e4m3(x):
    """f32 to the nearest e4m3 number, ties to even, saturating."""
    x = x.clamp(-E4M3_MAX, E4M3_MAX)
    quantum = power_of_two_below(x.abs()).clamp(min=2.0**-6) * 0.125
    return torch.round(x / quantum) * quantum


def round_e2m1(x):
    """f32 to the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign, ties to even, saturating."""
    x = x.clamp(-E2M1_MAX, E2M1_MAX)
    quantum = power_of_two_below(x.abs()).clamp(min=1.0) * 0.5
    return torch.round(x / quantum) * quantum


def _blocks(x, block):
    """x [..., n] as [..., n / block, block]; one smaller block if n < block."""
    width = x.shape[-1]
    if width < block:
        return x.unsqueeze(-2)
    assert width % block == 0
    return x.unflatten(-1, (width // block, block))


def quantize_e4m3(x, block):
    """f32 activations through e4m3 with one scale per `block` columns."""
    parts = _blocks(x, block)
    largest = parts.abs().amax(-1, keepdim=True).clamp(min=ACTIVATION_FLOOR)
    scale = power_of_two_above(largest * torch.tensor(1 / E4M3_MAX, dtype=torch.float32))
    return (round_e4m3(parts / scale) * scale).reshape(x.shape)


def quantize_e2m1(x, block=32):
    """f32 through e2m1 with one scale per `block` columns: indexer rows and expert weights."""
    parts = _blocks(x, block)
    largest = parts.abs().amax(-1, keepdim=True).clamp(min=FP4_FLOOR)
    scale = power_of_two_above(largest * torch.tensor(1 / E2M1_MAX, dtype=torch.float32))
    return (round_e2m1(parts / scale) * scale).reshape(x.shape)


def tile_scales(weight, tile=128):
    """The scales of 128x128 tiles of a matrix: f32 [ceil rows / 128, ceil columns / 128]."""
    rows, columns = weight.shape
    down, across = -(-rows // tile), -(-columns // tile)
    padded = torch.zeros(down * tile, across * tile)
    padded[:rows, :columns] = weight
    largest = padded.view(down, tile, across, tile).abs().amax((1, 3)).clamp(min=2.0**-100)
    return power_of_two_above(largest * torch.tensor(1 / E4M3_MAX, dtype=torch.float32))


def spread_tiles(scales, shape, tile=128):
    """scales of tiles to one per element, of shape [rows, columns]."""
    return scales.repeat_interleave(tile, 0).repeat_interleave(tile, 1)[: shape[0], : shape[1]]


def quantize_tiles(weight):
    """Dense weights [rows, columns] f32 through e4m3 with one scale per 128x128 tile."""
    scale = spread_tiles(tile_scales(weight), weight.shape)
    return round_e4m3(weight / scale) * scale


def straight_through(x, rounded):
    """rounded in the forward pass, the gradient of x in the backward pass."""
    return x + (rounded - x).detach()
