"""Reads and writes safetensors files for the programs that make the golden files. Needs numpy.

A tensor is a pair (dtype name of the format, array). Number formats that numpy lacks are arrays of
their bit patterns: BF16 as 16-bit, F8_E4M3 and F8_E8M0 as 8-bit numbers.
"""

import json
import struct

import numpy as np

DTYPES = {
    "F32": np.dtype("<f4"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}


def read_safetensors(path):
    """{name: (dtype name, array)} of one file."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_bytes])
    tensors = {}
    for name, record in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in record["data_offsets"])
        values = np.frombuffer(data[begin:end], DTYPES[record["dtype"]])
        tensors[name] = (record["dtype"], values.reshape(record["shape"]))
    return tensors


def write_safetensors(path, tensors):
    """Data in order of names; the header padded with spaces to a multiple of 8."""
    header, offset = {}, 0
    for name, (dtype, values) in sorted(tensors.items()):
        end = offset + values.nbytes
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, (dtype, values) in sorted(tensors.items()):
            file.write(np.ascontiguousarray(values, DTYPES[dtype]).tobytes())


def to_bf16(values):
    """16-bit patterns of f32 values rounded to nearest even; the values must be finite."""
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("BF16 is for finite values here")
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
