"""Official checkpoints, read and written: safetensors shards, their index, config.json.

read_checkpoint returns what model.Model takes: the configuration, masters by name (the routed
experts stacked) and the hash layers' tables.
"""

import json
import os
import struct

import torch

from parameters import parameter_kinds
from numerics import (
    E2M1_MAX,
    FP4_FLOOR,
    power_of_two_above,
    round_e2m1,
    round_e4m3,
    spread_tiles,
    tile_scales,
)

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.uint8,
}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1_BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])


def read_safetensors(path):
    """name -> tensor of one file; e8m0 scales stay bytes."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    length = struct.unpack_from("<Q", data)[0]
    out = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = torch.frombuffer(data[8 + length + begin : 8 + length + end], dtype=torch.uint8)
        out[name] = raw.view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return out


def write_safetensors(path, tensors):
    """tensors: name -> (dtype name, tensor), written in order."""
    header, offset = {}, 0
    for name, (dtype, tensor) in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors.values():
            file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def scale_values(bytes_):
    return torch.exp2(bytes_.float() - 127)


def scale_bytes(scales):
    """Powers of two to e8m0 bytes."""
    return (torch.log2(scales).round() + 127).to(torch.uint8)


def encode_fp4(weight):
    """[rows, columns] f32 to codes, two a byte, and scales of 32 columns; the values are those of
    numerics.quantize_e2m1."""
    parts = weight.unflatten(-1, (-1, 32))
    largest = parts.abs().amax(-1, keepdim=True).clamp(min=FP4_FLOOR)
    scale = power_of_two_above(largest * torch.tensor(1 / E2M1_MAX, dtype=torch.float32))
    scale = scale.clamp(min=2.0**-126)
    value = round_e2m1(parts / scale).flatten(-2)
    code = torch.bucketize(value.abs(), E2M1_BOUNDS) | (value < 0).long() << 3
    packed = (code[:, 0::2] | code[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
    return packed, scale_bytes(scale.squeeze(-1))


def decode_fp4(packed, scales):
    packed = packed.view(torch.uint8).long()
    code = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    value = E2M1[code & 7] * torch.where(code >= 8, -1.0, 1.0)
    return (value.unflatten(-1, (-1, 32)) * scale_values(scales).unsqueeze(-1)).flatten(-2)


def encode_fp8(weight):
    """[rows, columns] f32 to e4m3 and scales of 128x128; values as numerics.quantize_tiles."""
    scales = tile_scales(weight)
    value = round_e4m3(weight / spread_tiles(scales, weight.shape))
    return value.to(torch.float8_e4m3fn), scale_bytes(scales)


def decode_fp8(weight, scales):
    return weight.float() * spread_tiles(scale_values(scales), weight.shape)


def read_checkpoint(directory):
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    with open(os.path.join(directory, "model.safetensors.index.json")) as file:
        shards = sorted(set(json.load(file)["weight_map"].values()))
    tensors = {}
    for shard in shards:
        tensors.update(read_safetensors(os.path.join(directory, shard)))

    def expert(prefix, part):
        name = f"{prefix}.{part}"
        return decode_fp4(tensors[name + ".weight"], tensors[name + ".scale"])

    masters = {}
    for name, (kind, shape) in parameter_kinds(config).items():
        if kind == "fp4":
            base, part = name.rsplit(".", 1)
            each = []
            for e in range(shape[0]):
                if part == "w13":
                    each.append(
                        torch.cat([expert(f"{base}.{e}", "w1"), expert(f"{base}.{e}", "w3")])
                    )
                else:
                    each.append(expert(f"{base}.{e}", "w2"))
            masters[name] = torch.stack(each)
        elif kind == "fp8":
            masters[name] = decode_fp8(tensors[name], tensors[name[: -len("weight")] + "scale"])
        else:
            masters[name] = tensors[name].float()
        assert masters[name].shape == torch.Size(shape), name
    tables = [tensors[f"layers.{i}.ffn.gate.tid2eid"] for i in range(config["num_hash_layers"])]
    return config, masters, tables


# ---- writing ------------------------------------------------------------------------------------


def checkpoint_tensors(config, masters, tables):
    """All tensors of the official file, layer by layer: name -> (dtype name, tensor)."""
    out = {}

    def dense(name, weight):
        codes, scales = encode_fp8(weight)
        out[name] = ("F8_E4M3", codes)
        out[name[: -len("weight")] + "scale"] = ("F8_E8M0", scales)

    def experts(name, part, weight):
        codes, scales = encode_fp4(weight)
        out[f"{name}.{part}.weight"] = ("I8", codes)
        out[f"{name}.{part}.scale"] = ("F8_E8M0", scales)

    for name, (kind, shape) in parameter_kinds(config).items():
        value = masters[name].detach()
        if kind == "fp8":
            dense(name, value)
        elif kind == "bf16":
            out[name] = ("BF16", value.to(torch.bfloat16))
        elif kind == "f32":
            out[name] = ("F32", value)
        elif name.endswith("w13"):
            base, half = name[: -len(".w13")], shape[1] // 2
            for e in range(shape[0]):
                experts(f"{base}.{e}", "w1", value[e, :half])
                experts(f"{base}.{e}", "w2", masters[base + ".w2"][e])
                experts(f"{base}.{e}", "w3", value[e, half:])
    for layer, table in enumerate(tables):
        out[f"layers.{layer}.ffn.gate.tid2eid"] = ("I64", table)
    return out


def write_checkpoint(directory, config, generation_config, masters, tables, shard_bytes=8 << 20):
    """config.json, generation_config.json, shards of at most about shard_bytes, and their index."""
    shards, current, size, total = [], {}, 0, 0
    for name, (dtype, tensor) in checkpoint_tensors(config, masters, tables).items():
        bytes_ = tensor.numel() * tensor.element_size()
        if current and size + bytes_ > shard_bytes:
            shards.append(current)
            current, size = {}, 0
        current[name] = (dtype, tensor)
        size += bytes_
        total += bytes_
    shards.append(current)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(os.path.join(directory, file), shard)
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    for file, value in (
        ("model.safetensors.index.json", index),
        ("config.json", config),
        ("generation_config.json", generation_config),
    ):
        with open(os.path.join(directory, file), "w") as out:
            json.dump(
                value,
                out,
                indent=2 if file != "model.safetensors.index.json" else 0,
                sort_keys=file != "config.json",
            )
            out.write("\n")
    return total
