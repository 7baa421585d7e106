#!/usr/bin/env python3
"""Sets simulations beside each other: plot_simulations.py REPORT.json... writes an SVG picture to
standard output. A report is what `sluice simulate --json` printed; its row is named after the file.
Needs nothing but Python."""

import json
import pathlib
import sys
from xml.sax.saxutils import escape

# Where an access found its expert, as shares of all of them.
PLACES = (("on the device", "#308050"), ("on its way there", "#90c060"), ("in RAM", "#e0b040"),
          ("on disk", "#c03030"))
NAME, BAR, FIGURES = 150, 360, 500  # widths
ROW, TOP, BOTTOM = 40, 46, 34


def shares(report):
    accesses = max(report["accesses"], 1)
    others = [report[key] / accesses for key in ("on_the_way", "from_ram", "from_disk")]
    return [1 - sum(others), *others]


def figures(report):
    tokens = max(report["tokens"], 1)
    moved = [report[key] / tokens / 1e6 for key in ("bytes_up", "bytes_down", "bytes_disk")]
    guesses = report["guesses"]
    return (f"{report['tokens_per_second']:.1f} tokens/s of {report['bound']:.1f} at these hits; a token "
            f"{1e3 * report['token_p50_seconds']:.1f} ms, 1 of 100 {1e3 * report['token_p99_seconds']:.1f}",
            f"waiting {1e3 * report['stall_seconds'] / tokens:.2f} ms a token; MB up {moved[0]:.0f}, down "
            f"{moved[1]:.0f}, read {moved[2]:.0f}; guesses {guesses['useful']} useful, "
            f"{guesses['late']} late, {guesses['wasted']} wasted")


def text(x, y, words, size=11, anchor="start"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(words)}</text>")


def row(y, name, report):
    yield text(NAME - 8, y + 14, name, anchor="end")
    yield text(NAME - 8, y + 27, f"{report['routing']}, {report['policy']}", 9, "end")
    x = NAME
    for share, (_, colour) in zip(shares(report), PLACES):
        yield f'<rect x="{x:.1f}" y="{y}" width="{BAR * share:.1f}" height="26" fill="{colour}"/>'
        if share > 0.07:
            yield text(x + BAR * share / 2, y + 17, f"{100 * share:.1f} %", 10, "middle")
        x += BAR * share
    for i, words in enumerate(figures(report)):
        yield text(NAME + BAR + 10, y + 11 + 14 * i, words, 9)


def picture(reports):
    width, height = NAME + BAR + FIGURES, TOP + ROW * len(reports) + BOTTOM
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>')
    yield text(NAME, 20, "where an access finds its expert", 12)
    for i, (name, report) in enumerate(reports):
        yield from row(TOP + ROW * i - 12, name, report)
    x = NAME
    for label, colour in PLACES:
        yield f'<rect x="{x}" y="{height - 24}" width="10" height="10" fill="{colour}"/>'
        yield text(x + 14, height - 15, label, 10)
        x += 28 + 6 * len(label)
    yield "</svg>"


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    reports = []
    for path in map(pathlib.Path, sys.argv[1:]):
        try:
            reports.append((path.stem, json.loads(path.read_text(encoding="utf-8"))))
            shares(reports[-1][1])
            figures(reports[-1][1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}: not a report of sluice simulate --json: {error!r}", file=sys.stderr)
            return 1
    print("\n".join(picture(reports)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
