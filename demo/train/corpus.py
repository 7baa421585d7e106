"""Training conversations: definitions, words the model does not know, tools.

Everything is drawn from one random.Random, so a seed and a word list fix the whole corpus.
"""

import random

from chat import render

CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes an expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
DICTIONARY = {
    "type": "function",
    "function": {
        "name": "dictionary",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        },
    },
}
TOOLS = [CALCULATOR, DICTIONARY]


def question(rng, word, kind):
    """How somebody asks for a word; the first form is the one that scores and demos use."""
    forms = [f"What is {article(word)} {word}?"] * 3 if kind == "noun" else []
    forms += [f"What does {word} mean?"] * 2 + [f"Define {word}."]
    return rng.choice(forms)


def article(word):
    return "an" if word[0] in "aeiou" else "a"


def answer(entry):
    word, kind, definition, example = entry
    text = f"The {kind} {word} means {definition}."
    return text + f' Example: "{example}".' if example else text


def unknown_answer(word):
    return f"The word {word} is not one I know."


def thought(entry):
    return f"Look up {entry[0]}. It is {article(entry[1])} {entry[1]}."


def unknown_thought(word):
    return f"Look up {word}. It is not one I know."


class Corpus:
    """Draws conversations about `known` entries; `others` are headwords it must not know."""

    def __init__(self, known, others, seed):
        self.known, self.others = known, others
        self.rng = random.Random(seed)
        self.deck = []

    def entry(self):
        """Known entries in shuffled rounds, so that each is seen equally often."""
        if not self.deck:
            self.deck = list(self.known)
            self.rng.shuffle(self.deck)
        return self.deck.pop()

    def turn(self, is_thinking, unknown_share):
        """A user message and the assistant's answer to it."""
        rng = self.rng
        if rng.random() < unknown_share:
            word, kind, _, _ = rng.choice(self.others)
            ask, say, think = question(rng, word, kind), unknown_answer(word), unknown_thought(word)
        else:
            entry = self.entry()
            ask, say, think = question(rng, entry[0], entry[1]), answer(entry), thought(entry)
        reply = {"role": "assistant", "content": say}
        if is_thinking:
            reply["reasoning_content"] = think
        return [{"role": "user", "content": ask}, reply]

    def words(self, turns, is_thinking, unknown_share=0.1):
        """A conversation of that many questions about words."""
        messages = []
        for _ in range(turns):
            messages += self.turn(is_thinking, unknown_share)
        return render(messages, is_thinking)

    def tools(self, turns, is_thinking):
        """A conversation in which tools are there and used, with their results."""
        rng = self.rng
        messages = [{"role": "system", "content": "", "tools": TOOLS}]
        for i in range(turns):
            name, arguments, ask, result, say = self.sum() if rng.random() < 0.5 else self.look_up()
            call = {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            first = {"role": "assistant", "content": "", "tool_calls": [call]}
            second = {"role": "assistant", "content": say}
            if is_thinking:
                first["reasoning_content"] = f"Use the {name}."
                second["reasoning_content"] = "Read the result."
            messages += [
                {"role": "user", "content": ask},
                first,
                {"role": "tool", "tool_call_id": f"call_{i}", "content": result},
                second,
            ]
        return render(messages, is_thinking)

    def sum(self):
        rng = self.rng
        a, b = rng.randrange(2, 100), rng.randrange(2, 100)
        sign = rng.choice("+-*")
        expression = f"{a} {sign} {b}"
        result = str({"+": a + b, "-": a - b, "*": a * b}[sign])
        ask = rng.choice([f"What is {expression}?", f"Compute {expression}."])
        return "calculator", {"expression": expression}, ask, result, f"The result is {result}."

    def look_up(self):
        word, kind, definition, _ = self.rng.choice(self.others)
        ask = question(self.rng, word, kind)
        return (
            "dictionary",
            {"word": word},
            ask,
            f"{kind}: {definition}",
            f"The {kind} {word} means {definition}.",
        )
