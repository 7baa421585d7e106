"""Trains the demo model: demo/train/README of the folder above says how, `./run train` calls it.

State goes to --state (a folder outside the repository): the words, the tokenizer, and masters with
optimizer state every few minutes, from which a later call goes on. The rate falls with the time
trained so far against --minutes, so a run ends when it should on any machine; with --steps it falls
with the steps instead and a seed gives the same model again.
"""

import argparse
import json
import math
import os
import pickle
import random
import sys
import time

import torch

import bpe
import layers
import wordnet
from chat import SPECIAL
from config import CONFIG
from corpus import Corpus, answer
from model import Batch, Model
from numerics import quantize_e2m1
from optimizer import Optimizer
from parameters import initial_parameters

OTHERS = 3900  # headwords it must say it does not know; the unseen ones of the score are apart
UNSEEN = 100
FIRST_STAGE = 0.26  # of the time, for the first half of the words alone
TOOLS_SHARE = 0.8  # of the steps with a conversation with tools
CLIP = 1.0
MTP_WEIGHT = 0.3
INDEX_WEIGHT = 0.1
PIECES_COMPILED = (
    "rms",
    "hyper_pre",
    "hyper_post",
    "hyper_head",
    "quantized_input",
    "project_attention",
    "attend",
    "project_output",
    "route_scores",
    "gated",
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--dictionary", required=True, help="wn.dict.dz of Debian's dict-wn, or its text"
    )
    parser.add_argument("--state", required=True, help="folder for everything that training keeps")
    parser.add_argument("--words", type=int, default=4000, help="headwords to learn")
    parser.add_argument(
        "--minutes", type=float, default=82, help="time to train, all calls together"
    )
    parser.add_argument("--steps", type=int, help="steps to train, instead of a time")
    parser.add_argument(
        "--stop-after", type=float, default=1e9, help="minutes after which this call stops"
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--no-muon", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=4)
    return parser.parse_args()


# ---- data ---------------------------------------------------------------------------------------


def split_words(ranked, count, seed):
    """(known, others, unseen): unseen are drawn from among the rarer half of the known ones."""
    half = count // 2
    picked = {half + i for i in random.Random(seed).sample(range(count - half), UNSEEN)}
    known = [e for i, e in enumerate(ranked[: count + UNSEEN]) if i not in picked]
    others = ranked[count + UNSEEN : count + UNSEEN + OTHERS]
    return known, others, [ranked[i] for i in sorted(picked)]


def prepare(options):
    """Words and tokenizer, made once and then read from the state folder."""
    words_path = os.path.join(options.state, "words.json")
    tokenizer_path = os.path.join(options.state, "tokenizer.json")
    if not os.path.exists(words_path):
        known, others, unseen = split_words(
            wordnet.ranked_words(options.dictionary), options.words, options.seed
        )
        with open(words_path, "w") as file:
            json.dump({"known": known, "others": others, "unseen": unseen}, file, indent=0)
    with open(words_path) as file:
        words = {key: [tuple(e) for e in value] for key, value in json.load(file).items()}
    if not os.path.exists(tokenizer_path):
        half = len(words["known"]) // 2
        common, rare = words["known"][:half], words["known"][half:] + words["others"]
        texts = [(answer(e), 2) for e in common] + [(" " + e[0], 8) for e in common]
        texts += [(" " + e[0], 1) for e in rare]
        corpus = Corpus(common, rare, options.seed)
        texts += [("".join(text for text, _ in corpus.tools(2, i % 2 == 1)), 1) for i in range(200)]
        bpe.train(texts, CONFIG["vocab_size"]).save(tokenizer_path)
    return words, bpe.load(tokenizer_path, CONFIG["vocab_size"])


def hash_tables(tokenizer, corpus, seed):
    """Experts of each token id in the hash layers; every expert gets equally many tokens."""
    counts = torch.zeros(CONFIG["vocab_size"])
    for i in range(3000):
        for text, _ in corpus.words(1, i % 2 == 0):
            for token in tokenizer.encode(text):
                counts[token] += 1
    generator, tables = torch.Generator().manual_seed(seed), []
    experts, top = CONFIG["n_routed_experts"], CONFIG["num_experts_per_tok"]
    for _ in range(CONFIG["num_hash_layers"]):
        load = torch.zeros(experts)
        table = torch.empty(CONFIG["vocab_size"], top, dtype=torch.int64)
        for token in torch.argsort(counts, descending=True, stable=True).tolist():
            jitter = torch.rand(experts, generator=generator) * 1e-3
            chosen = torch.topk(load + jitter, top, largest=False).indices
            table[token] = chosen
            load[chosen] += counts[token] + 0.1
        tables.append(table)
    return tables


class Row:
    """One conversation as ids, with the places whose next token counts."""

    def __init__(self, tokenizer, pieces):
        self.ids, self.counts = [], []
        for text, is_answer in pieces:
            part = tokenizer.encode(text)
            self.ids += part
            self.counts += [is_answer] * len(part)


def draw(corpus, tokenizer, tokens):
    """The rows of one step: some with tools, some of many turns, most of one."""
    rng, rows, used = corpus.rng, [], 0
    if rng.random() < TOOLS_SHARE:
        rows.append(Row(tokenizer, corpus.tools(rng.choice((2, 3, 4, 5)), rng.random() < 0.5)))
    for _ in range(2):
        rows.append(Row(tokenizer, corpus.words(rng.choice((3, 4, 5, 6)), rng.random() < 0.4)))
    used = sum(len(row.ids) for row in rows)
    while used < tokens:
        rows.append(Row(tokenizer, corpus.words(1, rng.random() < 0.35)))
        used += len(rows[-1].ids)
    return rows


def pack(rows, pad):
    """Rows in groups of similar length: Batch, places, targets, and the same two tokens on."""
    rows = sorted(rows, key=lambda row: len(row.ids))
    groups, current = [], []
    for row in rows:
        if current and len(row.ids) > 1.15 * len(current[0].ids) + 2:
            groups.append(current)
            current = []
        current.append(row)
    groups.append(current)
    tensors, places, targets, far_places, far_targets, start = [], [], [], [], [], 0
    for group in groups:
        length = max(len(row.ids) for row in group)
        block = torch.full((len(group), length), pad, dtype=torch.int64)
        for i, row in enumerate(group):
            block[i, : len(row.ids)] = torch.tensor(row.ids)
            for t in range(len(row.ids) - 1):
                if row.counts[t + 1]:
                    places.append(start + i * length + t)
                    targets.append(row.ids[t + 1])
                if t + 2 < len(row.ids) and row.counts[t + 2]:
                    far_places.append(start + i * length + t)
                    far_targets.append(row.ids[t + 2])
        tensors.append(block)
        start += block.numel()
    as_ids = [torch.tensor(x) for x in (places, targets, far_places, far_targets)]
    return Batch(tensors), *as_ids


# ---- training -----------------------------------------------------------------------------------


class Compiled:
    """layers with the element-wise functions fused by the compiler."""

    def __init__(self):
        for name in PIECES_COMPILED:
            setattr(self, name, torch.compile(getattr(layers, name), dynamic=True))


def muon_shape(config, kinds):
    f, d = config["moe_intermediate_size"], config["hidden_size"]

    def shape_of(name):
        kind, shape = kinds[name]
        if kind == "fp4":
            return (-1, f, d) if name.endswith("w13") else (-1, d, f)
        return (1, *shape) if kind == "fp8" else None

    return shape_of


def losses(model, batch, places, targets, far_places, far_targets):
    """Cross entropy of the next token and, by the MTP block, the one after; the indexer's."""
    streams, further = model.forward(batch, with_mtp=True)
    head = model.leaves["head.weight"].to(torch.bfloat16)

    def entropy(x, at, targets):
        return torch.nn.functional.cross_entropy((x[at] @ head.t()).float(), targets)

    main = entropy(model.head_input(streams), places, targets)
    mtp = entropy(model.head_input(further, "mtp.0."), far_places, far_targets)
    index = sum(model.losses) if model.losses else torch.zeros(())
    return main, mtp, index


class Trainer:
    def __init__(self, options):
        self.options = options
        self.words, self.tokenizer = prepare(options)
        self.first = self.words["known"][: len(self.words["known"]) // 2]
        self.path = os.path.join(options.state, "state.pt")
        if os.path.exists(self.path):
            self.tables = torch.load(self.path, weights_only=True)["tables"]
        else:
            corpus = Corpus(self.first, self.words["others"], options.seed)
            self.tables = hash_tables(self.tokenizer, corpus, options.seed)
        self.corpus = Corpus(self.first, self.words["others"], options.seed)
        self.masters = initial_parameters(CONFIG, options.seed)
        self.model = Model(CONFIG, self.tables, layers if options.no_compile else Compiled())
        shape_of = muon_shape(CONFIG, self.model.kinds)
        self.optimizer = Optimizer(
            self.masters, (lambda name: None) if options.no_muon else shape_of
        )
        self.round = quantize_e2m1 if options.no_compile else torch.compile(quantize_e2m1)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        if os.path.exists(self.path):
            self.restore()

    def progress(self):
        if self.options.steps:
            return self.step / self.options.steps
        return self.seconds / (60 * self.options.minutes)

    def rate(self):
        """A share of the full rate: up in 2 %, level to 40 %, then down by a cosine."""
        p = self.progress()
        if p < 0.4:
            return min(1, max(p / 0.02, 0.02))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, (p - 0.4) / 0.6)))

    def train_step(self):
        model = self.model
        self.corpus.known = self.first if self.progress() < FIRST_STAGE else self.words["known"]
        model.load(self.masters, self.round)
        model.zero_gradients()
        rows = draw(self.corpus, self.tokenizer, self.options.tokens)
        batch, *where = pack(rows, self.tokenizer.markers[SPECIAL[2]])
        main, mtp, index = losses(model, batch, *where)
        (main + MTP_WEIGHT * mtp + INDEX_WEIGHT * index).backward()
        gradients = {n: model.gradient(n) for n in self.masters if not n.endswith("gate.bias")}
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients.values()))))
        if torch.isfinite(norm):
            rate = self.rate()
            scale = torch.clamp(CLIP / (norm + 1e-6), max=1.0)
            self.optimizer.step(
                gradients, self.options.muon_rate * rate, self.options.adam_rate * rate, scale
            )
            self.balance(0.003 * max(rate, 0.1))
        else:
            self.skipped += 1
        self.step += 1
        return (
            main.item(),
            mtp.item(),
            index.item(),
            norm.item(),
            batch.ids.numel(),
            where[0].numel(),
        )

    def balance(self, rate):
        """Moves each expert's bias against its load of this step."""
        for prefix, counts in self.model.counts.items():
            if prefix + "gate.bias" in self.masters:
                bias = self.masters[prefix + "gate.bias"]
                bias.add_(torch.sign(counts.float().mean() - counts.float()), alpha=rate)
                bias.sub_(bias.mean())

    def save(self):
        state = {
            "masters": self.masters,
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "tables": self.tables,
            "corpus": pickle.dumps((self.corpus.rng.getstate(), self.corpus.deck)),
        }
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)

    def restore(self):
        state = torch.load(self.path, weights_only=True)
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
        self.optimizer.restore(state["optimizer"])
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]
        rng, self.corpus.deck = pickle.loads(state["corpus"])
        self.corpus.rng.setstate(rng)

    def run(self):
        begun = saved = last = time.monotonic()
        sums, loss_tokens, tokens = torch.zeros(4), 0, 0
        while self.progress() < 1 and last - begun < 60 * self.options.stop_after:
            *values, step_tokens, step_loss_tokens = self.train_step()
            now = time.monotonic()
            self.seconds += now - last
            sums += torch.tensor(values)
            tokens += step_tokens
            loss_tokens += step_loss_tokens
            if self.step % 10 == 0:
                main, mtp, index, norm = (sums / 10).tolist()
                loads = [c.max() / c.float().mean() for n, c in self.model.counts.items()]
                print(
                    f"step {self.step} {self.seconds / 60:.1f} min loss {main:.4f} "
                    f"mtp {mtp:.4f} index {index:.3f} "
                    f"norm {norm:.2f} rate {self.rate():.3f} tokens {tokens} answers {loss_tokens} "
                    f"peak load {max(loads):.1f} skipped {self.skipped} last {now - last:.2f} s",
                    flush=True,
                )
                sums.zero_()
            last = now
            if now - saved > 60 * self.options.save_minutes:
                self.save()
                saved = time.monotonic()
        self.save()


def main():
    options = arguments()
    torch.set_num_threads(1)
    os.makedirs(options.state, exist_ok=True)
    Trainer(options).run()


if __name__ == "__main__":
    sys.exit(main())
