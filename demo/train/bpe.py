"""A byte-level BPE tokenizer: training, encoding, and its tokenizer.json.

The splitting rules are the published ones; here they are applied to ASCII text between markers
only, which is all the corpus has, so the Unicode classes are written out as ASCII sets.
"""

import json
import re
from collections import Counter

from chat import MARKERS, SPECIAL

SPLIT_RULES = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    + "\r\n"
    + r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
    + "\r\n"
    + r"]*|\s*["
    + "\r\n"
    + r"]+|\s+(?!\S)|\s+",
]
PUNCTUATION = r"!-/:-@\[-`{-~"
DIGITS = re.compile(r"[0-9]{1,3}")
PIECES = re.compile(
    rf"[{PUNCTUATION}][A-Za-z]+|[^\r\n{PUNCTUATION}A-Za-z]?[A-Za-z]+"
    rf"| ?[{PUNCTUATION}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKER = re.compile(
    "(" + "|".join(re.escape(m) for m in sorted(SPECIAL + MARKERS, key=len, reverse=True)) + ")"
)


def byte_alphabet():
    """byte -> the character that stands for it in a tokenizer.json."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in out:
            out[b] = chr(256 + extra)
            extra += 1
    return out


def split(text):
    """Pieces of ASCII text without markers, in order; BPE works inside one."""
    out, at = [], 0
    for match in DIGITS.finditer(text):
        out += PIECES.findall(text[at : match.start()])
        out.append(match.group())
        at = match.end()
    return out + PIECES.findall(text[at:])


def train_merges(counts, merges_max):
    """counts: piece -> how often; returns [(left, right), ...] of bytes objects by rank."""
    words = [([bytes([b]) for b in piece.encode()], n) for piece, n in counts.items()]
    pairs, where = Counter(), {}
    for i, (parts, n) in enumerate(words):
        for pair in zip(parts, parts[1:]):
            pairs[pair] += n
            where.setdefault(pair, set()).add(i)
    merges = []
    while len(merges) < merges_max and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        for i in list(where[best]):
            parts, n = words[i]
            for pair in zip(parts, parts[1:]):
                pairs[pair] -= n
                where[pair].discard(i)
                if pairs[pair] <= 0:
                    del pairs[pair]
            parts = join(parts, best)
            words[i] = (parts, n)
            for pair in zip(parts, parts[1:]):
                pairs[pair] += n
                where.setdefault(pair, set()).add(i)
    return merges


def join(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


class Tokenizer:
    """Ids: three markers, 256 bytes in the alphabet's order, merges, the other markers last."""

    def __init__(self, merges, vocab):
        alphabet = byte_alphabet()
        self.alphabet, self.merges = alphabet, merges
        self.base = {
            bytes([b]): 3 + i for i, b in enumerate(sorted(alphabet, key=lambda b: alphabet[b]))
        }
        for left, right in merges:
            self.base.setdefault(left + right, 3 + len(self.base))
        first = vocab - len(MARKERS)
        self.markers = {m: i for i, m in enumerate(SPECIAL)} | {
            m: first + i for i, m in enumerate(MARKERS)
        }
        assert 3 + len(self.base) <= first
        self.ranks = {pair: i for i, pair in enumerate(merges)}
        self.cache = {}

    def encode(self, text):
        out = []
        for part in MARKER.split(text):
            if part in self.markers:
                out.append(self.markers[part])
            elif part:
                for piece in split(part):
                    out += self._piece(piece)
        return out

    def _piece(self, piece):
        if piece not in self.cache:
            parts = [bytes([b]) for b in piece.encode()]
            while len(parts) > 1:
                pair = min(zip(parts, parts[1:]), key=lambda p: self.ranks.get(p, len(self.ranks)))
                if pair not in self.ranks:
                    break
                parts = join(parts, pair)
            self.cache[piece] = [self.base[p] for p in parts]
        return self.cache[piece]

    def decode(self, ids):
        names = {i: b for b, i in self.base.items()} | {
            i: m.encode() for m, i in self.markers.items()
        }
        return b"".join(names[i] for i in ids).decode(errors="replace")

    def save(self, path):
        spell = lambda token: "".join(self.alphabet[b] for b in token)
        vocab = {m: i for i, m in enumerate(SPECIAL)} | {spell(t): i for t, i in self.base.items()}
        added = [
            {
                "id": i,
                "content": m,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": m not in SPECIAL,
                "special": m in SPECIAL,
            }
            for m, i in self.markers.items()
        ]
        level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        rules = [
            {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
            for rule in SPLIT_RULES
        ]
        file = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": []},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": rules + [level]},
            "post_processor": level | {"trim_offsets": False, "use_regex": True},
            "decoder": level | {"add_prefix_space": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": vocab,
                "merges": [f"{spell(a)} {spell(b)}" for a, b in self.merges],
            },
        }
        with open(path, "w", encoding="utf-8") as out:
            json.dump(file, out, ensure_ascii=False, indent=0)
            out.write("\n")


def load(path, vocab):
    """The tokenizer of a file that Tokenizer.save wrote."""
    with open(path, encoding="utf-8") as file:
        merges = json.load(file)["model"]["merges"]
    back = {c: b for b, c in byte_alphabet().items()}
    pairs = [tuple(bytes(back[c] for c in side) for side in merge.split(" ")) for merge in merges]
    return Tokenizer(pairs, vocab)


def train(texts, vocab):
    """texts: [(text, weight), ...] to a tokenizer of at most `vocab` ids."""
    counts = Counter()
    for text, weight in texts:
        for part in MARKER.split(text):
            if part not in SPECIAL and part not in MARKERS:
                for piece in split(part):
                    counts[piece] += weight
    return Tokenizer(train_merges(counts, vocab - len(SPECIAL) - 256 - len(MARKERS)), vocab)
