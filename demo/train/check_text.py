"""Compares the training text with the runtime: prompts with `sluice debug render`, ids with
`sluice debug tokens`, over random conversations. Exits with 1 at the first difference."""

import argparse
import copy
import json
import os
import subprocess
import sys

import bpe
import chat
import corpus as corpora
from config import CONFIG


def run(program, *arguments, text):
    return subprocess.run(
        [program, *arguments], input=text.encode(), check=True, capture_output=True
    ).stdout


def official(messages):
    """Messages with the arguments of tool calls as JSON text, as clients send them."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return messages


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", required=True, help="folder with words.json and tokenizer.json")
    parser.add_argument("--program", default="build/sluice")
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args()
    tokenizer_path = os.path.join(options.state, "tokenizer.json")
    tokenizer = bpe.load(tokenizer_path, CONFIG["vocab_size"])
    with open(os.path.join(options.state, "words.json")) as file:
        words = json.load(file)
    seen = []

    def remember(messages, is_thinking=False):
        seen.append((messages, is_thinking))
        return chat.render(messages, is_thinking)

    corpora.render = remember
    corpus = corpora.Corpus(words["known"], words["others"], 99)
    for i in range(options.count):
        is_thinking = i % 2 == 1
        pieces = (
            corpus.tools(1 + i % 3, is_thinking)
            if i % 4 < 2
            else corpus.words(1 + i % 5, is_thinking)
        )
        text = "".join(piece for piece, _ in pieces)
        wanted = {
            "messages": official(seen[-1][0]),
            "thinking_mode": "thinking" if is_thinking else "chat",
        }
        rendered = run(options.program, "debug", "render", text=json.dumps(wanted)).decode()
        if rendered != text:
            sys.exit(f"prompt {i} differs:\n{text}\n--- the runtime has\n{rendered}")
        ids = json.loads(
            run(options.program, "debug", "tokens", "--tokenizer", tokenizer_path, text=text)
        )
        mine = [token for piece, _ in pieces for token in tokenizer.encode(piece)]
        if ids != mine:
            sys.exit(f"ids of prompt {i} differ:\n{text}\n{mine}\n{ids}")
    print(f"{options.count} conversations: prompts and ids are those of the runtime")


if __name__ == "__main__":
    main()
