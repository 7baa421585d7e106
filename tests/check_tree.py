#!/usr/bin/env python3
"""Holds the tree to its rules: direction of includes, where system libraries may be used, file and
line lengths, unique stems, a header per module, and no orphan files."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE_DIRS = ("kernels", "offload", "runtime", "tests", "bench")

# What the files of a folder may include of ours; the longest matching folder counts.
MAY_INCLUDE = {
    "kernels": ("kernels/",),
    "offload": ("offload/", "kernels/"),
    "runtime": ("runtime/", "offload/", "kernels/"),
    "runtime/cli": ("runtime/cli/", "runtime/sl.h"),
    "runtime/server": ("runtime/server/", "runtime/sl.h"),
    "tests": ("",),
    "bench": ("",),
}

# System headers that only some files may see.
CONFINED = {
    "cuda": re.compile(r"^kernels/cuda/"),
    "cublas": re.compile(r"^kernels/cuda/"),
    "liburing": re.compile(r"^offload/io_uring\.c$"),
    "hwloc": re.compile(r"^offload/topology_hwloc\.c$"),
    "cblas": re.compile(r"^kernels/cpu/"),
    "microhttpd": re.compile(r"^runtime/server/http\.c$"),
    "pcre2": re.compile(r"^runtime/pretokenizer\.c$"),
    "jansson": re.compile(r"^(runtime|tests|bench)/"),
    "histedit": re.compile(r"^runtime/cli/"),
    "editline": re.compile(r"^runtime/cli/"),
}

LINES_MAX = 800
COLUMNS_MAX = 100
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')
BANNED = re.compile(r"\b(strcpy|strcat|sprintf|gets|alloca|rand|srand|setjmp|longjmp)\s*\(")


def folder_rule(path):
    best = max((d for d in MAY_INCLUDE if path.startswith(d + "/")), key=len)
    return MAY_INCLUDE[best]


def check_file(path, text, problems):
    lines = text.splitlines()
    if len(lines) > LINES_MAX:
        problems.append(f"{path}: {len(lines)} lines, at most {LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            problems.append(f"{path}:{number}: {len(line)} columns")
        if not path.startswith("tests/") and BANNED.search(line):
            problems.append(f"{path}:{number}: banned call: {line.strip()}")
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, name = match.groups()
        if quote == '"':
            if not (ROOT / name).is_file():
                problems.append(f"{path}:{number}: no such file from the root: {name}")
            elif not name.startswith(folder_rule(path)):
                problems.append(f"{path}:{number}: must not include {name}")
        for library, allowed in CONFINED.items():
            if library in name and quote == "<" and not allowed.match(path):
                problems.append(f"{path}:{number}: <{name}> may not be used here")


def check_headers(paths, texts, problems):
    """Every header starts with a comment and is included by somebody."""
    included = set()
    for text in texts.values():
        included.update(m.group(2) for m in map(INCLUDE.match, text.splitlines()) if m)
    for path in paths:
        if not texts[path].lstrip().startswith("/*"):
            problems.append(f"{path}: does not open with a comment that says what it is")
        found_by_path = path.startswith(("tests/cuda_emulator/include/", "tests/gpu/bare/include/"))
        if path.endswith((".h", ".cuh")) and path not in included and not found_by_path:
            problems.append(f"{path}: no file includes this header")


def check_stems(paths, problems):
    """One module, one header, one stem; only twins (cpu, cuda) and commands share."""
    seen = {}
    for path in paths:
        item = pathlib.PurePath(path)
        if item.parts[0] not in ("kernels", "offload", "runtime") or item.suffix != ".c":
            continue
        if item.parent.as_posix() in ("kernels/cpu", "kernels/cuda", "runtime/cli"):
            continue
        if item.stem in seen:
            problems.append(f"{path}: the stem is taken by {seen[item.stem]}")
        seen[item.stem] = path


def main():
    paths = sorted(
        p.relative_to(ROOT).as_posix()
        for d in SOURCE_DIRS
        for p in (ROOT / d).rglob("*")
        if p.suffix in (".c", ".h", ".cu", ".cuh", ".cpp")
    )
    texts = {p: (ROOT / p).read_text(encoding="utf-8") for p in paths}
    problems = []
    for path in paths:
        check_file(path, texts[path], problems)
    check_headers(paths, texts, problems)
    check_stems(paths, problems)
    for problem in problems:
        print(problem)
    print(f"{len(paths)} files, {len(problems)} problems")
    return 1 if problems or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
