#!/usr/bin/env python3
"""Scores the demo model through the runtime: `demo/score.py [--model DIR] [--program FILE]`.

The lists are demo/score/trained.jsonl (500 of the headwords it was trained on), unseen.jsonl (100
it never saw) and tools.jsonl (requests with tools at hand). All answers are greedy. An answer is
exact if every character is the dictionary's; near, if its definition is at least 90 % alike by
difflib; well formed, if it is a finished sentence of the two forms the model has. Prints a table,
and JSON with --json; needs nothing but Python.
"""

import argparse
import difflib
import json
import os
import re
import sys

from program import EOS, Program

HERE = os.path.dirname(os.path.abspath(__file__))
KNOWN = re.compile(
    r'The (noun|verb|adjective|adverb) ([a-z]+) means (.+?)\.(?: Example: "(.+)"\.)?'
)
UNKNOWN = re.compile(r"The word ([a-z]+) is not one I know\.")
NEAR = 0.9


def read_list(name):
    with open(os.path.join(HERE, "score", name + ".jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judge(entry, reply, text):
    """What is right about `text`, the answer to `entry`."""
    match = KNOWN.fullmatch(text)
    finished = reply["finish_reason"] == "stop"
    same = (
        difflib.SequenceMatcher(None, match.group(3), entry["definition"]).ratio() if match else 0
    )
    return {
        "exact": finished and text == entry["answer"],
        "definition": finished and bool(match) and match.group(3) == entry["definition"],
        "near": finished and same >= NEAR,
        "class": bool(match) and match.group(1) == entry["class"],
        "formed": finished and bool(match or UNKNOWN.fullmatch(text)),
        "declined": bool(UNKNOWN.fullmatch(text)),
    }


def shares(rows):
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} | {
        "count": len(rows)
    }


def score_words(program, entries, think):
    """Answers without thinking as they come; with thinking, the message that the parser reads."""
    rows = []
    for entry in entries:
        reply = program.ask(entry["question"], think)
        text = reply["text"]
        if think:
            message = program.parse(text + EOS, True) if reply["finish_reason"] == "stop" else None
            text = message["content"] if message and message["reasoning_content"] else ""
        rows.append(judge(entry, reply, text))
    return shares(rows)


def score_tools(program, requests):
    """First the call, then the answer once the tool's result is there."""
    rows = []
    for request in requests:
        think = request["think"]
        messages = [
            {"role": "system", "content": "", "tools": request["tools"]},
            {"role": "user", "content": request["question"]},
        ]
        reply = program.complete(program.render(messages, think))
        message = (
            program.parse(reply["text"] + EOS, think) if reply["finish_reason"] == "stop" else None
        )
        calls = (message or {}).get("tool_calls") or []
        names = {tool["function"]["name"] for tool in request["tools"]}
        formed = len(calls) == 1 and calls[0]["function"]["name"] in names
        arguments = json.loads(calls[0]["function"]["arguments"]) if formed else None
        right = (
            formed
            and calls[0]["function"]["name"] == request["tool"]
            and arguments == request["arguments"]
        )
        call = {
            "id": "1",
            "type": "function",
            "function": {"name": request["tool"], "arguments": json.dumps(request["arguments"])},
        }
        messages += [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call],
                "reasoning_content": f"Use the {request['tool']}.",
            },
            {"role": "tool", "tool_call_id": "1", "content": request["result"]},
        ]
        reply = program.complete(program.render(messages, think))
        text = reply["text"].rpartition("</think>")[2]
        rows.append({"formed": formed, "right": right, "read": text == request["answer"]})
    return shares(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=os.path.join(HERE, "model"))
    parser.add_argument("--program", default=os.path.join(HERE, "..", "build", "sluice"))
    parser.add_argument("--limit", type=int, default=10**9, help="only the first of each list")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    program = Program(options.program, options.model)
    trained, unseen, tools = (
        read_list(name)[: options.limit] for name in ("trained", "unseen", "tools")
    )
    result = {
        "trained": score_words(program, trained, False),
        "trained, thinking": score_words(program, trained[:100], True),
        "unseen": score_words(program, unseen, False),
        "tools": score_tools(program, tools),
    }
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    for name, row in result.items():
        figures = ", ".join(f"{key} {value:.1%}" for key, value in row.items() if key != "count")
        print(f"{name} ({row['count']}): {figures}")


if __name__ == "__main__":
    main()
