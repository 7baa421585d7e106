"""The parameters of the network: names, shapes, formats in the checkpoint, and a random start.

Parameters are f32 masters by their names in the checkpoint, except that the routed experts of a
layer are stacked: `ffn.experts.w13` [E, 2F, D] (gate above up) and `ffn.experts.w2` [E, D, F].
"""

import math

import torch


def parameter_kinds(config):
    """name -> (kind, shape); kind is fp8, fp4, bf16 or f32: what the checkpoint holds."""
    d, m, v = config["hidden_size"], config["hc_mult"], config["vocab_size"]
    heads, head, rank = config["num_attention_heads"], config["head_dim"], config["q_lora_rank"]
    groups, low = config["o_groups"], config["o_lora_rank"]
    experts, f = config["n_routed_experts"], config["moe_intermediate_size"]
    index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
    kinds = {
        "embed.weight": ("bf16", (v, d)),
        "head.weight": ("bf16", (v, d)),
        "norm.weight": ("bf16", (d,)),
    }

    def add_head(prefix):
        kinds.update(
            {
                prefix + "hc_head_fn": ("f32", (m, m * d)),
                prefix + "hc_head_base": ("f32", (m,)),
                prefix + "hc_head_scale": ("f32", (1,)),
            }
        )

    def add_compressor(prefix, ratio, width):
        rows = 2 * width if ratio == 4 else width
        kinds.update(
            {
                prefix + "wkv.weight": ("bf16", (rows, d)),
                prefix + "wgate.weight": ("bf16", (rows, d)),
                prefix + "ape": ("f32", (ratio, rows)),
                prefix + "norm.weight": ("bf16", (width,)),
            }
        )

    def add_block(prefix, ratio, is_hash):
        for site in ("attn", "ffn"):
            kinds.update(
                {
                    f"{prefix}{site}_norm.weight": ("bf16", (d,)),
                    f"{prefix}hc_{site}_fn": ("f32", ((2 + m) * m, m * d)),
                    f"{prefix}hc_{site}_base": ("f32", ((2 + m) * m,)),
                    f"{prefix}hc_{site}_scale": ("f32", (3,)),
                }
            )
        a = prefix + "attn."
        kinds.update(
            {
                a + "attn_sink": ("f32", (heads,)),
                a + "wq_a.weight": ("fp8", (rank, d)),
                a + "q_norm.weight": ("bf16", (rank,)),
                a + "wq_b.weight": ("fp8", (heads * head, rank)),
                a + "wkv.weight": ("fp8", (head, d)),
                a + "kv_norm.weight": ("bf16", (head,)),
                a + "wo_a.weight": ("fp8", (groups * low, heads * head // groups)),
                a + "wo_b.weight": ("fp8", (d, groups * low)),
            }
        )
        if ratio:
            add_compressor(a + "compressor.", ratio, head)
        if ratio == 4:
            kinds[a + "indexer.wq_b.weight"] = ("fp8", (index_heads * index_dim, rank))
            kinds[a + "indexer.weights_proj.weight"] = ("bf16", (index_heads, d))
            add_compressor(a + "indexer.compressor.", ratio, index_dim)
        n = prefix + "ffn."
        kinds[n + "gate.weight"] = ("bf16", (experts, d))
        if not is_hash:
            kinds[n + "gate.bias"] = ("f32", (experts,))
        kinds[n + "experts.w13"] = ("fp4", (experts, 2 * f, d))
        kinds[n + "experts.w2"] = ("fp4", (experts, d, f))
        for part, shape in (("w1", (f, d)), ("w3", (f, d)), ("w2", (d, f))):
            kinds[f"{n}shared_experts.{part}.weight"] = ("fp8", shape)

    add_head("")
    for layer in range(config["num_hidden_layers"]):
        add_block(
            f"layers.{layer}.", config["compress_ratios"][layer], layer < config["num_hash_layers"]
        )
    for name in ("e_proj", "h_proj"):
        kinds[f"mtp.0.{name}.weight"] = ("fp8", (d, d))
    for name in ("enorm", "hnorm", "norm"):
        kinds[f"mtp.0.{name}.weight"] = ("bf16", (d,))
    add_head("mtp.0.")
    add_block("mtp.0.", 0, False)
    return kinds


def initial_parameters(config, seed):
    """Random masters: matrices by fan-in, streams apart from each other, near-identity mixing."""
    generator = torch.Generator().manual_seed(seed)
    m, out, site = config["hc_mult"], {}, 0
    for name, (_, shape) in parameter_kinds(config).items():
        if name.endswith("norm.weight"):
            value = torch.ones(shape)
        elif name.endswith(("attn_sink", "gate.bias")):
            value = torch.zeros(shape)
        elif name.endswith("_scale"):
            value = torch.full(shape, 0.1)
        elif name.endswith("hc_head_base"):
            value = torch.full(shape, -1.1)
        elif name.endswith("_base"):
            value = torch.cat(
                [torch.full((m,), -1.5), torch.zeros(m), (4 * torch.eye(m)).flatten()]
            )
            value[site % m] = 1.5
            value[m : 2 * m] = torch.randn(m, generator=generator) * 0.5
            site += 1
        elif name.endswith("ape"):
            value = torch.randn(shape, generator=generator) * 0.1
        elif name == "embed.weight":
            value = torch.randn(shape, generator=generator)
        else:
            value = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
            if name.endswith(("wo_b.weight", "w2", "w2.weight")):
                value *= 0.5
            if name.endswith("head.weight"):
                value *= 0.5
        out[name] = value
    return out
