"""The published checkpoint format, as far as the cross-check needs it: reading a folder into f32
weights, and making random weights that the format holds exactly. Needs numpy.

Weights are {name: array} under the published names, dequantised to f32 (tid2eid: i64); stored
tensors are {name: (dtype name, array)} as in safetensors_file.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
from safetensors_file import from_bf16, read_safetensors, to_bf16, write_safetensors

FP8_TILE = 128
FP4_BLOCK = 32
E8M0_BIAS = 127


def e4m3_values():
    """Value of each of the 256 codes; NaN for the two that are not numbers."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = (8 + mantissa) * 2.0 ** (exponent - 10)
    value = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    value[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes & 0x80, -value, value).astype(np.float32)


E4M3 = e4m3_values()
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def nearest_code(positive, values):
    """(code, sign) of the nearest value, given the ascending values of the codes without sign."""
    middles = (positive[1:] + positive[:-1]) / 2
    codes = np.searchsorted(middles, np.abs(values)).astype(np.uint8)
    return codes, np.signbit(values).astype(np.uint8)


def expand_scale(scale, rows, columns, row_block, column_block):
    factors = np.exp2(scale.astype(np.float32) - E8M0_BIAS)
    return factors.repeat(row_block, 0)[:rows].repeat(column_block, 1)[:, :columns]


def dequantise(dtype, values, scale):
    """One stored tensor as f32 (I64 as it is); `scale` is None but for F8_E4M3 and I8."""
    if dtype == "F8_E4M3":
        return E4M3[values] * expand_scale(scale, *values.shape, FP8_TILE, FP8_TILE)
    if dtype == "I8":
        packed = values.view(np.uint8)
        codes = np.stack((packed & 15, packed >> 4), -1).reshape(values.shape[0], -1)
        return E2M1[codes] * expand_scale(scale, *codes.shape, 1, FP4_BLOCK)
    return from_bf16(values) if dtype == "BF16" else values


def dequantise_all(stored):
    weights = {}
    for name, (dtype, values) in stored.items():
        if dtype == "F8_E8M0":
            continue
        scale = stored.get(name.removesuffix(".weight") + ".scale", (None, None))[1]
        weights[name] = dequantise(dtype, values, scale)
    return weights


def load(folder):
    """(config, weights) of a checkpoint folder."""
    stored = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored.update(read_safetensors(path))
    return json.loads((folder / "config.json").read_text()), dequantise_all(stored)


def save(folder, config, stored):
    """Writes config.json, one shard and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = "model-00001-of-00001.safetensors"
    write_safetensors(folder / shard, stored)
    total = sum(values.nbytes for _, values in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(sorted(stored), shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


class RandomWeights:
    """Draws the tensors of one random checkpoint into `stored`."""

    def __init__(self, config, seed):
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.stored = {}

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def f32(self, name, values):
        self.stored[name] = ("F32", np.asarray(values, np.float32))

    def bf16(self, name, values):
        self.stored[name] = ("BF16", to_bf16(values))

    def norm(self, name, width):
        self.bf16(name + ".weight", 1 + 0.2 * self.normal(width))

    def scale(self, name, shape, target):
        """Power-of-two scales around `target`, one tile or block differing from the next."""
        exponents = np.rint(np.log2(target)) + self.rng.integers(-1, 2, shape)
        self.stored[name + ".scale"] = ("F8_E8M0", (exponents + E8M0_BIAS).astype(np.uint8))

    def fp8(self, name, rows, columns, gain=1.0):
        """A dense matrix: outputs have about `gain` times the rms of the inputs."""
        codes, negative = nearest_code(E4M3[:127], 40 * self.normal(rows, columns))
        self.stored[name + ".weight"] = ("F8_E4M3", codes | negative << 7)
        tiles = (-(-rows // FP8_TILE), -(-columns // FP8_TILE))
        self.scale(name, tiles, gain / (40 * columns**0.5))

    def fp4(self, name, rows, columns, gain):
        codes, negative = nearest_code(E2M1[:8], 2 * self.normal(rows, columns))
        codes |= negative << 3
        packed = (codes[:, 0::2] | codes[:, 1::2] << 4).view(np.int8)
        self.stored[name + ".weight"] = ("I8", packed)
        self.scale(name, (rows, columns // FP4_BLOCK), gain / (2 * columns**0.5))

    def compressor(self, name, ratio, width):
        hidden = self.config["hidden_size"]
        channels = (2 if ratio == 4 else 1) * width
        self.bf16(name + ".wkv.weight", self.normal(channels, hidden) / hidden**0.5)
        self.bf16(name + ".wgate.weight", 1.5 * self.normal(channels, hidden) / hidden**0.5)
        self.f32(name + ".ape", self.normal(ratio, channels))
        self.norm(name + ".norm", width)

    def attention(self, name, ratio):
        c = self.config
        hidden, rank, heads = c["hidden_size"], c["q_lora_rank"], c["num_attention_heads"]
        width, groups, out_rank = c["head_dim"], c["o_groups"], c["o_lora_rank"]
        self.f32(name + ".attn_sink", 2 * self.normal(heads))
        self.fp8(name + ".wq_a", rank, hidden)
        self.norm(name + ".q_norm", rank)
        self.fp8(name + ".wq_b", heads * width, rank)
        self.fp8(name + ".wkv", width, hidden)
        self.norm(name + ".kv_norm", width)
        self.fp8(name + ".wo_a", groups * out_rank, heads * width // groups, 2)
        self.fp8(name + ".wo_b", hidden, groups * out_rank, 2)
        if ratio:
            self.compressor(name + ".compressor", ratio, width)
        if ratio == 4:
            index_heads, index_width = c["index_n_heads"], c["index_head_dim"]
            self.fp8(name + ".indexer.wq_b", index_heads * index_width, rank)
            proj = self.normal(index_heads, hidden) / hidden**0.5
            self.bf16(name + ".indexer.weights_proj.weight", proj)
            self.compressor(name + ".indexer.compressor", ratio, index_width)

    def experts(self, name, hashed):
        c = self.config
        hidden, width = c["hidden_size"], c["moe_intermediate_size"]
        count, top = c["n_routed_experts"], c["num_experts_per_tok"]
        self.bf16(name + ".gate.weight", 2 * self.normal(count, hidden) / hidden**0.5)
        if hashed:
            keys = self.rng.random((c["vocab_size"], count))
            table = np.argsort(keys, 1)[:, :top].astype(np.int64)
            self.stored[name + ".gate.tid2eid"] = ("I64", table)
        else:
            self.f32(name + ".gate.bias", self.normal(count))
        # Gate and up projections this large make some channels exceed swiglu_limit.
        parts = [("w1", width, hidden, 5), ("w2", hidden, width, 0.2), ("w3", width, hidden, 5)]
        for part, rows, columns, gain in parts:
            for expert in range(count):
                self.fp4(f"{name}.experts.{expert}.{part}", rows, columns, gain)
            self.fp8(f"{name}.shared_experts.{part}", rows, columns, gain)

    def mixing(self, name, outputs, scales):
        streams = self.config["hc_mult"] * self.config["hidden_size"]
        self.f32(name + "_fn", self.normal(outputs, streams) / streams**0.5)
        self.f32(name + "_base", self.normal(outputs))
        self.f32(name + "_scale", self.rng.uniform(0.5, 1.5, scales))

    def draw(self):
        c = self.config
        streams = c["hc_mult"]
        shape = (c["vocab_size"], c["hidden_size"])
        self.bf16("embed.weight", self.normal(*shape))
        self.bf16("head.weight", 4 * self.normal(*shape) / c["hidden_size"] ** 0.5)
        self.norm("norm", c["hidden_size"])
        self.mixing("hc_head", streams, 1)
        for layer in range(c["num_hidden_layers"]):
            name = f"layers.{layer}"
            self.norm(name + ".attn_norm", c["hidden_size"])
            self.norm(name + ".ffn_norm", c["hidden_size"])
            self.mixing(name + ".hc_attn", (2 + streams) * streams, 3)
            self.mixing(name + ".hc_ffn", (2 + streams) * streams, 3)
            self.attention(name + ".attn", c["compress_ratios"][layer])
            self.experts(name + ".ffn", layer < c["num_hash_layers"])
        return self.stored
