"""Writes the trained model as an official checkpoint: `export.py --state DIR --output DIR`.

The weights are those the last training steps computed with: rounded once more by the same rules.
With --seed and no state, an untrained model of the same shape, to test the way there.
"""

import argparse
import os
import shutil

import torch

from checkpoint import write_checkpoint
from config import CONFIG, GENERATION_CONFIG
from parameters import initial_parameters


def untrained_tables(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = CONFIG["vocab_size"], CONFIG["n_routed_experts"]
    order = [
        torch.rand(shape, generator=generator).argsort(1) for _ in range(CONFIG["num_hash_layers"])
    ]
    return [o[:, : CONFIG["num_experts_per_tok"]].contiguous() for o in order]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--state", help="folder that train.py wrote")
    parser.add_argument("--output", required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--seed", type=int, default=1, help="of an untrained model, without --state"
    )
    options = parser.parse_args()
    os.makedirs(options.output, exist_ok=True)
    if options.state:
        state = torch.load(os.path.join(options.state, "state.pt"), weights_only=True)
        masters, tables = state["masters"], state["tables"]
        shutil.copy(os.path.join(options.state, "tokenizer.json"), options.output)
    else:
        masters, tables = initial_parameters(CONFIG, options.seed), untrained_tables(options.seed)
    total = write_checkpoint(options.output, CONFIG, GENERATION_CONFIG, masters, tables)
    print(f"{options.output}: {total} bytes of tensors")


if __name__ == "__main__":
    main()
