"""The whole network over ragged batches.

The forward pass reads leaves: the masters of parameters.py rounded to what the checkpoint holds.
"""

import torch

import layers
from grouped import Combine, Dispatch, GroupedLinear, Plan
from numerics import quantize_e2m1, quantize_tiles
from parameters import parameter_kinds


class Batch:
    """Rows of several lengths: ids [N] int64 of all; groups (start, rows, length) of equals."""

    def __init__(self, groups):
        self.groups, self.ids, self.positions, self.following = [], [], [], []
        start = 0
        for rows in groups:
            count, length = rows.shape
            self.groups.append((start, count, length))
            self.ids.append(rows.reshape(-1))
            self.following.append(torch.roll(rows, -1, 1).reshape(-1))
            self.positions.append(torch.arange(length).repeat(count))
            start += count * length
        self.ids, self.positions = torch.cat(self.ids), torch.cat(self.positions)
        self.following = torch.cat(self.following)


class Model:
    """Leaves of one set of masters and the forward pass over them."""

    def __init__(self, config, tables, pieces=layers):
        """tables: per hash layer the experts of each token id, int64 [vocab, top]; pieces: the
        module of layers, or an object with compiled versions of its functions."""
        self.config, self.tables, self.pieces = config, tables, pieces
        self.kinds = parameter_kinds(config)
        self.leaves, self.gradients = {}, {}
        self.is_quantized = True  # activations
        self.ropes = {}
        for ratio in (0, 4):
            angles = torch.arange(config["max_position_embeddings"], dtype=torch.float32).unsqueeze(
                1
            )
            angles = angles * layers.rope_frequencies(config, ratio)
            self.ropes[ratio] = torch.cos(angles), torch.sin(angles)
        self.hadamard = layers.hadamard(config["index_head_dim"])
        self.counts, self.losses, self.routes = {}, [], None

    def load(self, masters, round_experts=quantize_e2m1):
        """Takes masters into the leaves, rounded to the formats of the checkpoint."""
        for name, (kind, shape) in self.kinds.items():
            master = masters[name].detach()
            if kind == "fp4":
                value = round_experts(master).to(layers.ACTIVATION)
                if name not in self.leaves:
                    self.leaves[name] = value
                    self.gradients[name] = torch.zeros(shape)
                else:
                    self.leaves[name].copy_(value)
                continue
            if kind == "fp8":
                value = quantize_tiles(master)
            else:
                value = master if kind == "f32" else master.to(torch.bfloat16).float()
            if name not in self.leaves:
                leaf = value.clone().requires_grad_(not name.endswith("gate.bias"))
                if leaf.requires_grad:
                    leaf.grad = torch.zeros(shape)
                self.leaves[name] = leaf
            else:
                with torch.no_grad():
                    self.leaves[name].copy_(value)

    def zero_gradients(self):
        for leaf in self.leaves.values():
            if leaf.grad is not None:
                leaf.grad.zero_()
        for gradient in self.gradients.values():
            gradient.zero_()

    def gradient(self, name):
        return self.gradients[name] if name in self.gradients else self.leaves[name].grad

    # ---- the forward pass ---------------------------------------------------------------------

    def forward(self, batch, with_mtp=False):
        """Final streams [N, M, D], and those of the MTP block for rows t (next token known)."""
        self.counts, self.losses, self.routes = {}, [], {}
        streams = torch.nn.functional.embedding(batch.ids, self.leaves["embed.weight"]).to(
            layers.ACTIVATION
        )
        streams = streams.unsqueeze(1).expand(-1, self.config["hc_mult"], -1).contiguous()
        for layer in range(self.config["num_hidden_layers"]):
            streams = self._block(
                streams, batch, f"layers.{layer}.", self.config["compress_ratios"][layer], layer
            )
        return streams, self._mtp(streams, batch) if with_mtp else None

    def logits(self, streams, prefix=""):
        """f32 [N, vocab] of streams [N, M, D]; prefix "mtp.0." for the MTP block's own head."""
        return self.head_input(streams, prefix).float() @ self.leaves["head.weight"].t()

    def head_input(self, streams, prefix=""):
        w, c = self.leaves, self.config
        return self.pieces.hyper_head(
            streams,
            w[prefix + "hc_head_fn"],
            w[prefix + "hc_head_scale"],
            w[prefix + "hc_head_base"],
            w[prefix + "norm.weight"],
            c["rms_norm_eps"],
            c["hc_eps"],
        )

    def _mtp(self, streams, batch):
        w, eps = self.leaves, self.config["rms_norm_eps"]
        e = torch.nn.functional.embedding(batch.following, w["embed.weight"]).to(layers.ACTIVATION)
        e = self.pieces.rms(e, w["mtp.0.enorm.weight"], eps)
        s = self.pieces.rms(streams, w["mtp.0.hnorm.weight"], eps)
        e = layers.linear(
            self.pieces.quantized_input(e, self.is_quantized), w["mtp.0.e_proj.weight"]
        )
        s = layers.linear(
            self.pieces.quantized_input(s, self.is_quantized), w["mtp.0.h_proj.weight"]
        )
        return self._block(e.unsqueeze(1) + s, batch, "mtp.0.", 0, self.config["num_hidden_layers"])

    def _block(self, streams, batch, prefix, ratio, layer):
        c, w, pieces = self.config, self.leaves, self.pieces

        def enter(streams, site):
            return pieces.hyper_pre(
                streams,
                w[f"{prefix}hc_{site}_fn"],
                w[f"{prefix}hc_{site}_scale"],
                w[f"{prefix}hc_{site}_base"],
                w[f"{prefix}{site}_norm.weight"],
                c["hc_sinkhorn_iters"],
                c["rms_norm_eps"],
                c["hc_eps"],
            )

        x, post, comb = enter(streams, "attn")
        x = self._attention(x, batch, prefix + "attn.", ratio)
        streams = pieces.hyper_post(x, streams, post, comb)
        x, post, comb = enter(streams, "ffn")
        x = self._experts(x, batch, prefix + "ffn.", layer)
        return pieces.hyper_post(x, streams, post, comb)

    def _attention(self, x, batch, a, ratio):
        c, w, pieces = self.config, self.leaves, self.pieces
        eps = c["rms_norm_eps"]
        cosines, sines = self.ropes[4 if ratio else 0]
        cosine, sine = cosines[batch.positions], sines[batch.positions]
        qr, q, kv = pieces.project_attention(
            x,
            w[a + "wq_a.weight"],
            w[a + "q_norm.weight"],
            w[a + "wq_b.weight"],
            w[a + "wkv.weight"],
            w[a + "kv_norm.weight"],
            cosine,
            sine,
            c["num_attention_heads"],
            eps,
            self.is_quantized,
        )
        out = []
        for start, rows, length in batch.groups:
            part = slice(start, start + rows * length)

            def view(tensor):
                return tensor[part].unflatten(0, (rows, length))

            out.append(self._attend(view(x), view(qr), view(q), view(kv), a, ratio).flatten(0, 1))
        return pieces.project_output(
            torch.cat(out),
            w[a + "wo_a.weight"],
            w[a + "wo_b.weight"],
            cosine,
            sine,
            c["o_groups"],
            self.is_quantized,
        )

    def _attend(self, x, qr, q, kv, a, ratio):
        """One group of rows of equal length."""
        c, w, length = self.config, self.leaves, x.shape[1]
        at = torch.arange(length)
        distance = at.unsqueeze(1) - at
        visible = ((distance >= 0) & (distance < c["sliding_window"])).unsqueeze(0)
        count = length // ratio if ratio else 0
        if count == 0:
            return self.pieces.attend(q, kv, visible, w[a + "attn_sink"])[0]
        cosines, sines = self.ropes[4]
        rotary = c["qk_rope_head_dim"]

        def compressed(prefix, x):
            return layers.compress(
                x,
                w[prefix + "wkv.weight"],
                w[prefix + "wgate.weight"],
                w[prefix + "ape"],
                w[prefix + "norm.weight"],
                cosines,
                sines,
                ratio,
                c["rms_norm_eps"],
            )

        rows = layers.quantize_row(compressed(a + "compressor.", x), rotary, self.is_quantized)
        complete = (torch.arange(count) < ((at + 1) // ratio).unsqueeze(1)).unsqueeze(0)
        chosen, scores = complete, None
        if ratio == 4 and count > c["index_topk"]:
            keys = compressed(a + "indexer.compressor.", x.detach())
            scores = self._index_scores(x.detach(), qr.detach(), keys, a + "indexer.")
            scores = scores.masked_fill(~complete, -torch.inf)
            chosen = torch.zeros_like(scores, dtype=torch.bool)
            # Stable, as the runtime chooses: of equal scores, and many are 0, the earlier row.
            best = scores.sort(dim=-1, descending=True, stable=True).indices[..., : c["index_topk"]]
            chosen.scatter_(2, best, True)
            chosen = chosen & complete
        visible = torch.cat([visible.expand(chosen.shape[0], -1, -1), chosen], -1)
        out, attention = self.pieces.attend(
            q, torch.cat([kv, rows], 1), visible, w[a + "attn_sink"]
        )
        if scores is not None and torch.is_grad_enabled():
            self.losses.append(index_loss(scores, attention[..., length:], complete))
        return out

    def _index_scores(self, x, qr, keys, prefix):
        """How much each query wants each compressed row: f32 [B, T, rows]."""
        c, w = self.config, self.leaves
        heads, size, rotary = c["index_n_heads"], c["index_head_dim"], c["qk_rope_head_dim"]
        cosines, sines = self.ropes[4]
        length = x.shape[1]
        q = layers.linear(layers.quantized_input(qr, self.is_quantized), w[prefix + "wq_b.weight"])
        q = q.unflatten(-1, (heads, size))
        q = layers.rotate_tail(
            q, cosines[:length].unsqueeze(1), sines[:length].unsqueeze(1), rotary
        )
        q = layers.index_rotation(q, self.hadamard, self.is_quantized)
        k = layers.index_rotation(keys, self.hadamard, self.is_quantized)
        weight = layers.linear(x, w[prefix + "weights_proj.weight"]).float() * (
            size**-0.5 * heads**-0.5
        )
        dots = torch.relu(torch.einsum("bthd,bsd->bths", q.float(), k.float()))
        return (dots * weight.unsqueeze(-1)).sum(2)

    def _experts(self, x, batch, n, layer):
        c, w, pieces = self.config, self.leaves, self.pieces
        top = c["num_experts_per_tok"]
        fit = pieces.route_scores(x, w[n + "gate.weight"])
        if layer < c["num_hash_layers"]:
            ids = self.tables[layer][batch.ids]
        else:
            ids = (fit.detach() + w[n + "gate.bias"]).topk(top, -1).indices
        weight = fit.gather(1, ids)
        weight = weight * (c["routed_scaling_factor"] / weight.sum(-1, keepdim=True))
        plan = Plan(ids, c["n_routed_experts"])
        self.counts[n] = plan.counts
        if not torch.is_grad_enabled():
            self.routes[layer] = ids
        seen = pieces.quantized_input(x, self.is_quantized)
        rows = Dispatch.apply(seen, plan)
        sorted_weight = Dispatch.apply(weight.reshape(-1, 1), Rows(plan))
        hidden = GroupedLinear.apply(
            rows, w[n + "experts.w13"], self.gradients.get(n + "experts.w13"), plan
        )
        hidden = pieces.gated(hidden, sorted_weight, c["swiglu_limit"], self.is_quantized)
        routed = GroupedLinear.apply(
            hidden, w[n + "experts.w2"], self.gradients.get(n + "experts.w2"), plan
        )
        s = n + "shared_experts."
        both = torch.cat([w[s + "w1.weight"], w[s + "w3.weight"]])
        shared = pieces.gated(layers.linear(seen, both), None, c["swiglu_limit"], self.is_quantized)
        shared = layers.linear(shared, w[s + "w2.weight"])
        return (Combine.apply(routed, plan) + shared.float()).to(layers.ACTIVATION)


class Rows:
    """A plan's order for values that there are one of per row already, such as weights."""

    def __init__(self, plan):
        self.token = torch.empty_like(plan.token)
        flat = plan.place.reshape(-1)
        self.token[flat] = torch.arange(flat.numel())
        self.place = flat.unsqueeze(1)


def index_loss(scores, attention, complete):
    """KL divergence of the indexer's choice from where the heads really look; trains the indexer.

    scores [B, T, S] with -inf where not complete; attention [B, T, H, S] raw; complete [1, T, S].
    """
    some = complete.any(-1).squeeze(0)
    attention, scores = attention[:, some].detach(), scores[:, some]
    mask = complete[:, some]
    wanted = torch.softmax(attention.masked_fill(~mask.unsqueeze(2), -torch.inf), -1).mean(2)
    given = torch.log_softmax(scores, -1).masked_fill(~mask, 0)
    return (wanted * (torch.log(wanted + 1e-9) - given)).sum(-1).mean()
