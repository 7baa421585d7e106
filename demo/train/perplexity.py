"""Perplexity of the exported model by PyTorch and by the runtime on the same text.

The text is demo/score/heldout.jsonl: conversations drawn apart from training, of which the answers
count. Prints both figures and their ratio; needs the venv of training and a built program.
"""

import argparse
import json
import math
import os
import sys

import torch

from checkpoint import read_checkpoint
from model import Batch, Model

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from program import Program  # noqa: E402


def negative_log_likelihoods(logits, ids, counts):
    """Of the tokens that count, given rows of logits after each token."""
    logits = torch.log_softmax(logits[:-1].float(), -1)
    picked = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return -picked[torch.tensor(counts[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--program", default="build/sluice")
    parser.add_argument("--text", default="demo/score/heldout.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, masters, tables = read_checkpoint(options.model)
    model = Model(config, tables)
    model.load(masters)
    program = Program(options.program, options.model)
    theirs, ours = [], []
    with open(options.text, encoding="utf-8") as file:
        for line in file:
            ids, counts = [], []
            for text, is_answer in json.loads(line):
                part = program.encode(text)
                ids += part
                counts += [is_answer] * len(part)
            with torch.no_grad():
                logits = model.logits(model.forward(Batch([torch.tensor([ids])]))[0])
            theirs.append(negative_log_likelihoods(logits, ids, counts))
            rows = torch.tensor([row.tolist() for row in program.logits(ids, config["vocab_size"])])
            ours.append(negative_log_likelihoods(rows, ids, counts))
    theirs, ours = torch.cat(theirs), torch.cat(ours)
    a, b = math.exp(theirs.mean()), math.exp(ours.mean())
    print(f"{len(theirs)} tokens: PyTorch {a:.4f}, runtime {b:.4f}, ratio {b / a:.4f}")


if __name__ == "__main__":
    main()
