"""Exports an untrained model and compares PyTorch's logits with the runtime's, rounding nowhere.

What would show after training at the earliest otherwise: a tensor under a wrong name, nibbles in the
wrong order, a shape that the runtime's kernels do not take. Exits with 1 where they differ.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import torch

import layers
from checkpoint import read_checkpoint
from config import CONFIG, GENERATION_CONFIG
from export import untrained_tables, write_checkpoint
from model import Batch, Model
from parameters import initial_parameters

LIMIT = 1e-4  # the logits have a standard deviation of 0.5


def runtime_logits(program, directory, ids, mtp):
    out = os.path.join(directory, "logits")
    command = [program, "debug", "logits", "-m", directory, "--ids", ",".join(map(str, ids))]
    command += ["-o", out, "--numerics", "f32", "--ram", "64M"] + (["--mtp"] if mtp else [])
    subprocess.run(command, check=True)
    with open(out, "rb") as file:
        values = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
    return values.view(-1, CONFIG["vocab_size"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default="build/sluice")
    parser.add_argument("--tokens", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers.ACTIVATION = torch.float32
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, CONFIG["vocab_size"], (options.tokens,), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as directory:
        masters, tables = initial_parameters(CONFIG, 1), untrained_tables(1)
        write_checkpoint(directory, CONFIG, GENERATION_CONFIG, masters, tables)
        model = Model(CONFIG, read_checkpoint(directory)[2])
        model.load(masters)
        model.is_quantized = False
        with torch.no_grad():
            streams, further = model.forward(Batch([torch.tensor([ids])]), with_mtp=True)
            ours = model.logits(streams), model.logits(further, "mtp.0.")[:-1]
        worst = 0
        for mtp, logits in enumerate(ours):
            theirs = runtime_logits(options.program, directory, ids, mtp)
            worst = max(worst, (theirs - logits).abs().max().item())
    print(
        f"untrained model, {options.tokens} tokens: largest difference {worst:.2e} (limit {LIMIT})"
    )
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
