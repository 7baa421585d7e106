"""How evenly the trained model uses its experts: `popularity.py --state DIR [--model DIR]`.

Counts every layer's choices over fresh training conversations and prints, per layer, the experts
that are used at all, the Gini coefficient, the busiest expert's load over the mean and the shares
of experts that cover half, 80 % and 95 % of the uses.
"""

import argparse
import json
import os

import torch

import bpe
from chat import SPECIAL
from checkpoint import read_checkpoint
from corpus import Corpus
from model import Batch, Model
from train import draw, pack


def describe(counts):
    """One line on the uses [experts] of a layer."""
    ordered = counts.sort(descending=True).values.double()
    covered = ordered.cumsum(0) / ordered.sum()
    gini = 2 * (covered.sum() - 0.5) / len(ordered) - 1
    shares = [(int((covered < share).sum()) + 1) / len(ordered) for share in (0.5, 0.8, 0.95)]
    cover = " / ".join(f"{share:.0%}" for share in shares)
    return (
        f"{int((ordered > 0).sum())} of {len(ordered)} used, Gini {gini:.3f}, "
        f"peak {ordered[0] / ordered.mean():.2f}, cover {cover}, least used {int(ordered[-1])}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--state", required=True)
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--steps", type=int, default=12, help="batches of 2,048 tokens")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, masters, tables = read_checkpoint(options.model)
    model, totals, tokens = Model(config, tables), {}, 0
    model.load(masters)
    with open(os.path.join(options.state, "words.json")) as file:
        words = json.load(file)
    tokenizer = bpe.load(os.path.join(options.model, "tokenizer.json"), config["vocab_size"])
    corpus = Corpus([tuple(e) for e in words["known"]], words["others"], 7)
    for _ in range(options.steps):
        batch = pack(draw(corpus, tokenizer, 2048), tokenizer.markers[SPECIAL[2]])[0]
        tokens += batch.ids.numel()
        with torch.no_grad():
            model.forward(batch, with_mtp=True)
        for prefix, counts in model.counts.items():
            totals[prefix] = totals.get(prefix, 0) + counts
    print(f"{tokens} tokens")
    for prefix, counts in totals.items():
        print(f"{prefix[: -len('.ffn.')]}: {describe(counts)}")


if __name__ == "__main__":
    main()
