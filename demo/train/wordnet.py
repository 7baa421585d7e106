"""Headwords and their first sense, from the text of Debian's dict-wn (WordNet 3.0).

An entry is a headword at the left margin, then senses: `n 1: definition; "example" [syn: {a}]`, the
class given once for the senses that follow it. Only plain ASCII is taken, because a model of
this size has no room for more.
"""

import gzip
import re
from collections import Counter

CLASSES = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}
SENSE = re.compile(r"^(?:(n|v|adj|adv) )?(\d+|): ")
WORD = re.compile(r"^[a-z]{3,12}$")
DEFINITION_MAX = 90  # characters
EXAMPLE_MAX = 40
SENSES_MIN = 2
# Words of grammar, whose dictionary senses are not what anybody asks for.
GRAMMAR = set(
    """and any are been being but can could does for from had has have her here his how into its
may might more most not off one only other our over she should some such than that the their
them then there these they this those too under was way were what when where which who will
with without would you your""".split()
)
# Entries with such words are left out: a model that is shown to everybody need not know them.
UNWANTED = re.compile(
    r"\b(sex|vulgar|obscen|offensive|disparag|slang|slur|genital|pregnan|prostitut|intercourse|"
    r"copulat|penis|breast|rape|nazi|ethnic|negro|terroris|suicid|kill|murder|drug)",
    re.I,
)
# The class that is meant where it is not the one with the most senses.
CLASS_WANTED = {"sluice": "n"}


def read_entries(path):
    """Yields (headword, [(class, sense text), ...]) of the dictionary at path, gzip or plain."""
    opener = gzip.open if path.endswith((".dz", ".gz")) else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        word, lines = None, []
        for line in file:
            line = line.rstrip("\n")
            if line and not line.startswith(" "):
                if word:
                    yield word, _senses(lines)
                word, lines = line, []
            elif word and line:
                lines.append(line.strip())
        if word:
            yield word, _senses(lines)


def _senses(lines):
    senses, kind = [], None
    for line in lines:
        match = SENSE.match(line)
        if match:
            kind = match.group(1) or kind
            senses.append([kind, line[match.end() :]])
        elif senses:
            senses[-1][1] += " " + line
    return [(kind, text) for kind, text in senses if kind]


def _clean(text):
    """A sense to (definition, example or None), or None where it is not plain."""
    text = re.sub(r"\s*\[(?:syn|ant|also):.*$", "", text)
    text = re.sub(r"\s+", " ", text)
    example = None
    match = re.search(r'; "([^"]*)"', text)
    if match:
        example = match.group(1)
        text = text[: match.start()]
    definition = text.split(";")[0].strip(" :")
    definition = re.sub(r"^\([^)]*\) *", "", definition)
    if not re.fullmatch(r"[A-Za-z0-9 ,.'()/-]{8,}", definition):
        return None
    if UNWANTED.search(definition):
        return None
    if example is not None and UNWANTED.search(example):
        example = None
    if example is not None and not re.fullmatch(r"[A-Za-z0-9 ,.'!?-]{4,%d}" % EXAMPLE_MAX, example):
        example = None
    return definition, example


def choose(word, senses):
    """The class with the most senses and its first sense: (class, definition, example) or None.

    An example that shows another word of the same meaning is left out.
    """
    counts = {}
    for kind, _ in senses:
        counts[kind] = counts.get(kind, 0) + 1
    kind = CLASS_WANTED.get(word) or max(counts, key=lambda k: counts[k])
    cleaned = _clean(next(text for k, text in senses if k == kind))
    if not cleaned:
        return None
    definition, example = cleaned
    if example and word[: max(3, len(word) - 2)] not in example.lower():
        example = None
    return CLASSES[kind], definition, example


def ranked_words(path):
    """All usable headwords, the common ones first: [(word, class, definition, example), ...].

    Commonness is how often the word stands in the dictionary's own definitions and examples; ties
    by the alphabet. Words of CLASS_WANTED come first.
    """
    entries, uses = [], Counter()
    for word, senses in read_entries(path):
        for _, text in senses:
            uses.update(re.findall(r"[a-z]+", text.split("[syn:")[0].lower()))
        if WORD.match(word) and len(senses) >= SENSES_MIN and word not in GRAMMAR:
            chosen = choose(word, senses)
            if chosen and len(chosen[1]) <= DEFINITION_MAX:
                entries.append((word, *chosen))
    entries.sort(key=lambda entry: (entry[0] not in CLASS_WANTED, -uses[entry[0]], entry[0]))
    return entries
