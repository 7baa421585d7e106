"""Writes tests/golden/demo: PyTorch's logits of the exported model, for tests/test_demo.c.

Both ways of computing: `exact`, with the published rounding of activations, and `f32`, rounding
nowhere. The model is read back from the checkpoint, so the export is part of what is tested. With
--reference FOLDER it compares itself with the published program's outputs on the test checkpoints
there (tests/golden/model in full) instead and writes nothing.
"""

import argparse
import json
import os

import torch

import bpe
import layers
from chat import render
from checkpoint import read_checkpoint, read_safetensors, write_safetensors
from corpus import Corpus
from model import Batch, Model

ROWS = 5  # of a sequence's logits that are kept, spread over it


def compute(directory, sequences, is_exact):
    """name -> (logits [N, vocab], those of the MTP block [N - 1, vocab])."""
    layers.ACTIVATION = torch.bfloat16 if is_exact else torch.float32
    config, masters, tables = read_checkpoint(directory)
    model, out = Model(config, tables), {}
    model.load(masters)
    model.is_quantized = is_exact
    with torch.no_grad():
        for name, ids in sequences.items():
            streams, further = model.forward(Batch([torch.tensor([ids])]), with_mtp=True)
            out[name] = model.logits(streams), model.logits(further, "mtp.0.")[:-1]
    return out


def compare_reference(folder):
    for name in ("tiny-a", "tiny-b"):
        directory = os.path.join(folder, name)
        with open(os.path.join(directory, "golden", "tokens.json")) as file:
            sequences = {n: ids for n, ids in json.load(file).items() if 1 < len(ids) <= 300}
        for variant in ("f32", "exact"):
            for sequence, ours in compute(directory, sequences, variant == "exact").items():
                path = os.path.join(directory, "golden", f"{sequence}.{variant}.safetensors")
                theirs = read_safetensors(path)
                for part, logits in zip(("logits_prefill", "logits_mtp"), ours):
                    difference = logits - theirs[part]
                    print(
                        f"{name} {sequence} {variant} {part}: largest difference "
                        f"{difference.abs().max():.2e}, median rms "
                        f"{difference.square().mean(-1).sqrt().median():.3f}"
                    )


def draw_sequences(state, model):
    """A plain answer, a thought one, one to an unknown word, and a long one with tools."""
    with open(os.path.join(state, "words.json")) as file:
        words = json.load(file)
    tokenizer = bpe.load(os.path.join(model, "tokenizer.json"), 4096)
    corpus = Corpus([words["known"][0]], words["unseen"], 77)
    pieces = {
        "plain": corpus.words(1, False, 0),
        "thought": corpus.words(1, True, 0),
        "unknown": corpus.words(1, False, 1),
        "tools": corpus.tools(2, True),
    }
    return {
        name: [t for text, _ in p for t in tokenizer.encode(text)] for name, p in pieces.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--state")
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--output", default="tests/golden/demo/golden")
    parser.add_argument("--reference")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.reference:
        compare_reference(options.reference)
        return
    os.makedirs(options.output, exist_ok=True)
    sequences = draw_sequences(options.state, options.model)
    with open(os.path.join(options.output, "tokens.json"), "w") as file:
        json.dump(sequences, file)
        file.write("\n")
    for variant in ("f32", "exact"):
        for name, (logits, mtp) in compute(options.model, sequences, variant == "exact").items():
            tensors = {}
            for part, suffix, value in (
                ("logits_prefill", "", logits),
                ("logits_mtp", "_mtp", mtp),
            ):
                rows = torch.linspace(0, len(value) - 1, min(ROWS, len(value))).round().long()
                tensors["rows" + suffix] = ("I32", rows.to(torch.int32))
                tensors[part] = ("F32", value[rows])
            write_safetensors(
                os.path.join(options.output, f"{name}.{variant}.safetensors"), tensors
            )


if __name__ == "__main__":
    main()
