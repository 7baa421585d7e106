#!/usr/bin/env python3
"""How often the MTP block guesses the second token: `demo/acceptance.py [--model DIR]`.

Greedy answers of the main model to the scored questions are fed through it and the MTP block again
(teacher forcing). The block's row at token t sees the streams of t and token t + 1, and guesses
token t + 2; the guess is accepted if it is what the main model takes after t + 1. Counted over the
tokens of answers, per position and by the kind of question.
"""

import argparse
import json
import os

from program import Program

HERE = os.path.dirname(os.path.abspath(__file__))


def likeliest(row):
    return max(range(len(row)), key=row.__getitem__)


def count(program, vocab, question, think):
    """(guesses, accepted) over the answer to one question."""
    prompt = program.render([{"role": "user", "content": question}], think)
    ids = program.encode(prompt)
    first = len(ids)
    ids += program.complete(prompt)["ids"]
    main = [likeliest(row) for row in program.logits(ids, vocab)]
    guess = [likeliest(row) for row in program.logits(ids, vocab, mtp=True)]
    # Row t is of use when token t + 1 was just taken, which the first token of an answer is first.
    rows = range(first - 1, len(ids) - 1)
    return len(rows), sum(guess[t] == main[t + 1] for t in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=os.path.join(HERE, "model"))
    parser.add_argument("--program", default=os.path.join(HERE, "..", "build", "sluice"))
    parser.add_argument("--count", type=int, default=60, help="questions of each kind")
    options = parser.parse_args()
    program = Program(options.program, options.model)
    with open(os.path.join(options.model, "config.json")) as file:
        vocab = json.load(file)["vocab_size"]
    total = [0, 0]
    kinds = (("trained", False), ("trained", True), ("unseen", False))
    for name, think in kinds:
        with open(os.path.join(HERE, "score", name + ".jsonl"), encoding="utf-8") as file:
            questions = [json.loads(line)["question"] for line in file][: options.count]
        rows = [count(program, vocab, question, think) for question in questions]
        guesses, accepted = sum(r[0] for r in rows), sum(r[1] for r in rows)
        total = [total[0] + guesses, total[1] + accepted]
        label = name + (", thinking" if think else "")
        print(f"{label}: {accepted} of {guesses} accepted, {accepted / guesses:.1%}")
    print(f"all: {total[1]} of {total[0]} accepted, {total[1] / total[0]:.1%}")


if __name__ == "__main__":
    main()
