"""Asking the program: `sluice run`, `sluice debug` and what they print."""

import array
import json
import os
import subprocess
import tempfile

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


class Program:
    """The program at `path` with the checkpoint `model`; failures raise with what it said."""

    def __init__(self, path, model, ram="64M"):
        self.path, self.model, self.ram = path, model, ram

    def _call(self, *arguments, text=""):
        done = subprocess.run([self.path, *arguments], input=text.encode(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments[:2])}: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    def ask(self, question, think=False, tokens=160):
        """The greedy answer as the JSON object of `run --json`."""
        return json.loads(
            self._call(
                "run",
                "-m",
                self.model,
                "-p",
                question,
                "--json",
                "--temp",
                "0",
                "--think",
                "high" if think else "none",
                "-n",
                str(tokens),
                "--ram",
                self.ram,
                "--threads",
                "1",
                "--quiet",
            )
        )

    def complete(self, prompt, tokens=160):
        """The same from a prompt that is rendered already."""
        return json.loads(
            self._call(
                "run",
                "-m",
                self.model,
                "--raw",
                "-f",
                "-",
                "--json",
                "--temp",
                "0",
                "-n",
                str(tokens),
                "--ram",
                self.ram,
                "--threads",
                "1",
                "--quiet",
                text=prompt,
            )
        )

    def render(self, messages, think=False):
        """The prompt of a conversation, as docs/chat.md describes it."""
        mode = "thinking" if think else "chat"
        return self._call(
            "debug", "render", text=json.dumps({"messages": messages, "thinking_mode": mode})
        )

    def parse(self, completion, think=False):
        """The message in a completion, or None where its form is wrong."""
        mode = "thinking" if think else "chat"
        try:
            return json.loads(
                self._call(
                    "debug", "parse", text=json.dumps({"text": completion, "thinking_mode": mode})
                )
            )
        except RuntimeError:
            return None

    def encode(self, text):
        return json.loads(self._call("debug", "tokens", "-m", self.model, text=text))

    def logits(self, ids, vocab, mtp=False):
        """Logits after each of `ids` (with mtp: the block's, one row fewer): arrays of float."""
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "logits")
            self._call(
                "debug",
                "logits",
                "-m",
                self.model,
                "--ids",
                ",".join(map(str, ids)),
                "-o",
                out,
                "--ram",
                self.ram,
                "--threads",
                "1",
                *(["--mtp"] if mtp else []),
            )
            values = array.array("f")
            with open(out, "rb") as file:
                values.frombytes(file.read())
        return [values[i : i + vocab] for i in range(0, len(values), vocab)]
