"""Writes the lists that demo/score.py asks for, from the words that train.py drew."""

import argparse
import json
import os
import random

from corpus import TOOLS, Corpus, answer, article

TRAINED, REQUESTS, CONVERSATIONS, QUESTIONS = 500, 100, 64, 34


def question(word, kind):
    return f"What is {article(word)} {word}?" if kind == "noun" else f"What does {word} mean?"


def word_line(entry):
    word, kind, definition, example = entry
    return {
        "word": word,
        "class": kind,
        "definition": definition,
        "example": example,
        "question": question(word, kind),
        "answer": answer(entry),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", required=True)
    parser.add_argument("--output", required=True, help="demo/score")
    options = parser.parse_args()
    os.makedirs(options.output, exist_ok=True)
    with open(os.path.join(options.state, "words.json")) as file:
        words = json.load(file)
    rng = random.Random(500)
    trained = [words["known"][0]] + rng.sample(words["known"][1:], TRAINED - 1)
    corpus, requests = Corpus(words["known"], words["others"], 501), []
    for i in range(REQUESTS):
        name, arguments, ask, result, say = corpus.sum() if i % 2 else corpus.look_up()
        requests.append(
            {
                "question": ask,
                "tool": name,
                "arguments": arguments,
                "result": result,
                "answer": say,
                "think": i % 4 >= 2,
                "tools": TOOLS,
            }
        )
    lists = {
        "trained": [word_line(e) for e in trained],
        "unseen": [word_line(e) for e in words["unseen"]],
        "tools": requests,
    }
    asked = [line["question"] for line in lists["trained"][:QUESTIONS] + lists["unseen"][:6]]
    with open(os.path.join(options.output, "questions.txt"), "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in asked)
    corpus = Corpus(words["known"], words["others"], 502)
    lists["heldout"] = [corpus.words(1 + i % 4, i % 3 == 0) for i in range(CONVERSATIONS - 4)]
    lists["heldout"] += [corpus.tools(2, i % 2 == 1) for i in range(4)]
    for name, lines in lists.items():
        with open(os.path.join(options.output, name + ".jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
