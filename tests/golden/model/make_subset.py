#!/usr/bin/env python3
"""Cuts the full folder of golden model vectors down to what the repository keeps.

    make_subset.py FULL_FOLDER OUTPUT_FOLDER

Reads FULL_FOLDER/{tiny-a,tiny-b}, writes the same folders below OUTPUT_FOLDER: checkpoints and
token ids byte for byte, golden outputs reduced to some rows as README.md describes. Needs numpy.
The same input always gives the same bytes. Stops with a message on an unexpected input file.
"""

import pathlib
import shutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from safetensors_file import read_safetensors, to_bf16, write_safetensors

MODELS = ("tiny-a", "tiny-b")
TOTAL_BYTES_MAX = 22_500_000

# Evenly spaced rows, kept besides the fixed ones, of the f32 logits, the exact logits and the long
# trace.
EVEN_ROWS_F32 = 16
EVEN_ROWS_EXACT = 24
EVEN_ROWS_TRACE = 16
# Sequences up to this length keep every row.
WHOLE_TOKENS_MAX = 7
# Window edge, compressed-row edges, original YaRN lengths of the two models.
EDGE_ROWS = (127, 128, 129, 130, 255, 256, 257, 511, 512, 513)


def is_bf16(values):
    return not (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF).any()


def pick_rows(count, even):
    """Ascending positions below count: first, last, the edges, and `even` evenly spaced ones."""
    spread = [i * (count - 1) // (even - 1) for i in range(even)]
    return sorted({r for r in [0, count - 1, *EDGE_ROWS, *spread] if 0 <= r < count})


def row_tensor(rows):
    return ("I32", np.array(rows, np.int32))


def reduce_outputs(tensors, exact):
    """Logits and margins of one sequence and variant."""
    tokens = tensors["logits_prefill"][1].shape[0]
    even = EVEN_ROWS_EXACT if exact else EVEN_ROWS_F32
    kept = {}
    for name, (dtype, values) in tensors.items():
        if name.startswith("logits_") and tokens > WHOLE_TOKENS_MAX:
            rows = pick_rows(values.shape[0], even)
            kept["rows_mtp" if name == "logits_mtp" else "rows"] = row_tensor(rows)
            values = values[rows]
        if name.startswith("logits_") and exact:
            dtype, values = "BF16", to_bf16(values)
        kept[name] = (dtype, values)
    return kept


# Whole in the long trace: what one layer needs of all positions to be computed from its input.
def is_whole(name, exact):
    field = name.split(".")[-1]
    return field in ("comp_kv", "index_key", "index_topk") or (
        exact and field in ("attn_in", "attn_out")
    )


def reduce_trace(tensors, exact):
    """Every tensor of a short trace; of a long one what is_whole says, and rows of the rest."""
    tokens = tensors["embed"][1].shape[0]
    rows, rows_mtp = pick_rows(tokens, EVEN_ROWS_TRACE), pick_rows(tokens - 1, EVEN_ROWS_TRACE)
    kept = {}
    for name, (dtype, values) in tensors.items():
        if dtype == "F32" and is_bf16(values) and values.ndim > 1:
            dtype, values = "BF16", to_bf16(values)
        if tokens > WHOLE_TOKENS_MAX and not is_whole(name, exact):
            if name.endswith(".hc_out") or name == "embed":
                continue
            if values.shape[0] not in (tokens, tokens - 1):
                sys.exit(f"{name} has {values.shape[0]} rows, expected {tokens} or {tokens - 1}")
            mtp = values.shape[0] == tokens - 1
            values = values[rows_mtp if mtp else rows]
            kept["rows_mtp" if mtp else "rows"] = row_tensor(rows_mtp if mtp else rows)
        kept[name] = (dtype, values)
    return kept


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    full, output = map(pathlib.Path, sys.argv[1:])
    total = 0
    for model in MODELS:
        golden = output / model / "golden"
        golden.mkdir(parents=True, exist_ok=True)
        for path in sorted((full / model).glob("*.*")):
            shutil.copyfile(path, output / model / path.name)
        shutil.copyfile(full / model / "golden/tokens.json", golden / "tokens.json")
        for path in sorted((full / model / "golden").glob("*.safetensors")):
            tensors, exact = read_safetensors(path), ".exact." in path.name
            reduce = reduce_trace if ".trace." in path.name else reduce_outputs
            write_safetensors(golden / path.name, reduce(tensors, exact))
        total += sum(p.stat().st_size for p in (output / model).rglob("*") if p.is_file())
    if total > TOTAL_BYTES_MAX:
        sys.exit(f"{total} bytes, more than the {TOTAL_BYTES_MAX} meant for these files")
    print(f"{total} bytes")


if __name__ == "__main__":
    main()
