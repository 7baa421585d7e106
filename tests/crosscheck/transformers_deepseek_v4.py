#!/usr/bin/env python3
"""Checks and makes logits with the DeepSeek-V4 port in the `transformers` package.

    transformers_deepseek_v4.py check FOLDER...          against golden f32 logits in FOLDER/golden
    transformers_deepseek_v4.py write MODEL FOLDER       random checkpoint, tokens and logits

The port was written separately from the published program. `check` tells whether it computes the
same function; only then are its logits of other models worth anything. Run it with
every new version of the package, and add a patch where one deviates:

| transformers | torch | deviations | patched by |
|--------------|-------|------------|------------|
| 5.23.0       | 2.8.0 | none       |            |

`write` knows the models in MODELS; the test program test_crosscheck reads what it wrote.
Exits with 1 when a limit is exceeded. Needs numpy, torch, transformers.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4ForCausalLM,
    DeepseekV4IndexerScorer,
    DeepseekV4TopKRouter,
)

import checkpoint
from safetensors_file import read_safetensors, write_safetensors

GOLDEN_ABSOLUTE_MAX = 1e-3
RELATIVE_MAX = 1e-4  # largest difference over largest logit
# A selection closer than this, relative to the best score, may flip between correct programs.
MARGIN_MIN = 1e-5
SEEDS_MAX = 100

BASE = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "expert_dtype": "fp4",
    "hc_eps": 1e-6,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 0,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
}


def model_config(ratios, hashed, **fields):
    yarn = {"type": "yarn", "beta_fast": 32, "beta_slow": 1}
    yarn["factor"] = fields.pop("yarn_factor")
    yarn["original_max_position_embeddings"] = fields.pop("yarn_original")
    layers = {"num_hidden_layers": len(ratios), "compress_ratios": ratios}
    return BASE | layers | {"num_hash_layers": hashed, "rope_scaling": yarn} | fields


# Name: configuration, tokens, first seed. "small" is the one kept with the tests. At least 8 index
# heads: with fewer, relu leaves many scores at exactly 0 and the selection to chance.
SMALL = model_config(
    ratios=[128, 4, 0], hashed=1, yarn_factor=8, yarn_original=128, vocab_size=64,
    hidden_size=128, num_attention_heads=2, head_dim=128, q_lora_rank=128,
    o_groups=2, o_lora_rank=128, index_n_heads=8, index_head_dim=64, index_topk=12,
    moe_intermediate_size=128, n_routed_experts=3, num_experts_per_tok=2,
    routed_scaling_factor=2.0, swiglu_limit=8.0,
)  # fmt: skip
WIDE = model_config(
    ratios=[4, 0, 4, 128], hashed=2, yarn_factor=16, yarn_original=256, vocab_size=250,
    hidden_size=384, num_attention_heads=6, head_dim=192, q_lora_rank=256,
    o_groups=3, o_lora_rank=128, index_n_heads=12, index_head_dim=128, index_topk=20,
    moe_intermediate_size=256, n_routed_experts=10, num_experts_per_tok=3,
    routed_scaling_factor=1.5, swiglu_limit=10.0,
)  # fmt: skip
DEEP = model_config(
    ratios=[0, 128, 4, 4, 128, 0, 128, 4], hashed=3, yarn_factor=4, yarn_original=64,
    vocab_size=200,
    hidden_size=256, num_attention_heads=8, head_dim=320, q_lora_rank=128,
    o_groups=4, o_lora_rank=256, index_n_heads=16, index_head_dim=128, index_topk=32,
    moe_intermediate_size=128, n_routed_experts=20, num_experts_per_tok=6,
    routed_scaling_factor=1.0, swiglu_limit=7.0,
)  # fmt: skip
MODELS = {"small": (SMALL, 320, 1000), "wide": (WIDE, 700, 2000), "deep": (DEEP, 515, 3000)}

# Published name to the port's, by whole dotted parts.
TOP_NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}
LAYER_NAMES = (
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("hc_attn_", "attn_hc."),
    ("hc_ffn_", "ffn_hc."),
    ("attn.attn_sink", "self_attn.sinks"),
    ("attn.wq_a.", "self_attn.q_a_proj."),
    ("attn.q_norm.", "self_attn.q_a_norm."),
    ("attn.wq_b.", "self_attn.q_b_proj."),
    ("attn.wkv.", "self_attn.kv_proj."),
    ("attn.kv_norm.", "self_attn.kv_norm."),
    ("attn.wo_a.", "self_attn.o_a_proj."),
    ("attn.wo_b.", "self_attn.o_b_proj."),
    ("attn.indexer.wq_b.", "self_attn.compressor.indexer.q_b_proj."),
    ("attn.indexer.weights_proj.", "self_attn.compressor.indexer.scorer.weights_proj."),
    ("attn.indexer.compressor.", "self_attn.compressor.indexer."),
    ("attn.compressor.", "self_attn.compressor."),
    ("ffn.gate.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn.gate.", "mlp.gate."),
    ("ffn.shared_experts.w1.", "mlp.shared_experts.gate_proj."),
    ("ffn.shared_experts.w2.", "mlp.shared_experts.down_proj."),
    ("ffn.shared_experts.w3.", "mlp.shared_experts.up_proj."),
)
COMPRESSOR_NAMES = {
    "wkv.weight": "kv_proj.weight",
    "wgate.weight": "gate_proj.weight",
    "ape": "position_bias",
    "norm.weight": "kv_norm.weight",
}


def port_name(name):
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, layer, rest = name.split(".", 2)
    for ours, theirs in LAYER_NAMES:
        if rest.startswith(ours):
            tail = rest.removeprefix(ours)
            if ours.endswith("compressor."):
                tail = COMPRESSOR_NAMES[tail]
            return f"model.layers.{layer}.{theirs}{tail}"
    raise KeyError(name)


def port_state(config, weights):
    """The port's state dict; its experts are one tensor a layer. Leaves the MTP block out."""
    state = {}
    for name, values in weights.items():
        if not name.startswith("mtp.") and ".ffn.experts." not in name:
            state[port_name(name)] = torch.from_numpy(np.array(values))
    for layer in range(config["num_hidden_layers"]):
        expert = [f"layers.{layer}.ffn.experts.{e}." for e in range(config["n_routed_experts"])]
        part = {}
        for which in ("w1", "w2", "w3"):
            part[which] = np.stack([weights[e + which + ".weight"] for e in expert])
        name = f"model.layers.{layer}.mlp.experts."
        gate_up = np.concatenate((part["w1"], part["w3"]), 1)
        state[name + "gate_up_proj"] = torch.from_numpy(gate_up)
        state[name + "down_proj"] = torch.from_numpy(part["w2"])
    return state


def build(config, weights):
    """The port in f32 with these weights; every parameter must be given, and no other."""
    fields = {k: v for k, v in config.items() if k not in ("quantization_config", "torch_dtype")}
    port_config = DeepseekV4Config(**fields)
    port_config._attn_implementation = "eager"
    port_config._experts_implementation = "eager"
    model = DeepseekV4ForCausalLM(port_config).float().eval()
    model.load_state_dict(port_state(config, weights), strict=True)
    return model


def forward(model, tokens):
    with torch.no_grad():
        output = model(input_ids=torch.tensor([tokens]), use_cache=False)
    return output.logits[0].numpy()


class Margins:
    """Least relative distance, over all selections, of the last taken and the first left out."""

    def __init__(self, model):
        self.least = np.inf
        for module in model.modules():
            if isinstance(module, DeepseekV4TopKRouter):
                module.register_forward_hook(self.router)
            if isinstance(module, DeepseekV4IndexerScorer):
                module.register_forward_hook(self.indexer(model.config.index_topk))

    def add(self, scores, count):
        if count < scores.shape[-1]:
            top = scores.topk(count + 1, -1).values
            gap = (top[..., count - 1] - top[..., count]) / top.abs().amax(-1)
            self.least = min(self.least, float(gap.min()))

    def router(self, module, _, output):
        self.add(module.score_fn(output[0]) + module.e_score_correction_bias, module.top_k)

    def indexer(self, count):
        def hook(_module, _inputs, scores):
            for position in range(4 * count, scores.shape[1]):
                self.add(scores[0, position, : (position + 1) // 4], count)

        return hook


def relative_difference(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def check(folder):
    config, weights = checkpoint.load(folder)
    model = build(config, weights)
    passed = True
    for name, tokens in json.loads((folder / "golden/tokens.json").read_text()).items():
        golden = read_safetensors(folder / f"golden/{name}.f32.safetensors")
        logits = forward(model, tokens)
        if "rows" in golden:
            logits = logits[golden["rows"][1]]
        expected = golden["logits_prefill"][1]
        absolute, relative = np.abs(logits - expected).max(), relative_difference(logits, expected)
        good = absolute <= GOLDEN_ABSOLUTE_MAX and relative <= RELATIVE_MAX
        passed = passed and good
        print(f"{folder.name} {name}: {absolute:.2e} absolute, {relative:.2e} relative"
              f"{'' if good else ', too much'}")  # fmt: skip
    return passed


def make_tokens(rng, vocab, count):
    """Random ids with a run of one token and a copied span, so that selections matter."""
    tokens = rng.integers(0, vocab, count)
    tokens[40:60] = tokens[40]
    tokens[count - 60 : count - 20] = tokens[70:110]
    return [int(t) for t in tokens]


def kept_rows(count):
    spread = [i * (count - 1) // 19 for i in range(20)]
    return sorted({*spread, *(r for r in (127, 128, 129, 255, 256, 257) if r < count)})


def write(name, folder):
    """A checkpoint from the first seed whose selections are all clear, and its logits."""
    config, count, first_seed = MODELS[name]
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        stored = checkpoint.RandomWeights(config, seed).draw()
        model = build(config, checkpoint.dequantise_all(stored))
        margins = Margins(model)
        tokens = make_tokens(np.random.default_rng(seed), config["vocab_size"], count)
        logits = forward(model, tokens)
        if margins.least >= MARGIN_MIN:
            break
    else:
        sys.exit(f"{name}: no seed from {first_seed} on has margins of {MARGIN_MIN}")
    checkpoint.save(folder, config, stored)
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    (golden / "tokens.json").write_text(json.dumps({f"t{count}": tokens}) + "\n")
    rows = np.array(kept_rows(count), np.int32)
    outputs = {"logits_prefill": ("F32", logits[rows]), "rows": ("I32", rows)}
    write_safetensors(golden / f"t{count}.f32.safetensors", outputs)
    rms = np.sqrt((logits**2).mean())
    print(f"{name}: seed {seed}, least margin {margins.least:.1e}, rms of the logits {rms:.2f}")
    return True


def main(arguments):
    match arguments:
        case ["check", _, *_]:
            passed = all([check(pathlib.Path(folder)) for folder in arguments[1:]])
        case ["write", name, folder] if name in MODELS:
            passed = write(name, pathlib.Path(folder))
        case _:
            sys.exit(__doc__)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
