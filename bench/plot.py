#!/usr/bin/env python3
"""Figures and tables of bench/offload.md from what `sluice-bench residency`, `dispatch` and `hosts`
printed: plot.py RESULTS.jsonl... writes bench/plots/*.svg (needs matplotlib); with --tables it
prints the tables in Markdown and needs nothing."""

import json
import pathlib
import re
import sys

PLOTS = pathlib.Path(__file__).resolve().parent / "plots"
SLOTS = (16, 26, 44, 90, 120, 154)
# Offload facts, section 3.4: LRU by slots per layer.
FACTS_LRU = {"base": (0.46, 0.63, 0.78, 0.91, 0.94, 0.97), "stress": (0.42, 0.55, 0.68, 0.84, 0.89, 0.94)}
POLICIES = (("clairvoyant", "#999999"), ("blend", "#c03030"), ("lru", "#3060a0"), ("lfu", "#308050"))
WAYS = (("", "stream"), ("-prefetch", "stream, prefetch"), ("-cpu", "stream and CPU"),
        ("-cpu-prefetch", "stream and CPU, prefetch"))
LOSSES = ("cpu", "link", "both", "disk", "hand-over")
RAM = (64, 96, 128, 192, 256)


def load(paths):
    lines = {}
    for path in paths:
        for text in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            lines[line["bench"], line["case"]] = line
    return lines


def value(lines, bench, case):
    return lines[bench, case]["value"]


def residency_table(lines):
    print("| preset, slots per layer | clairvoyant | **blend** | LRU | LFU | blend less the better"
          " | to clairvoyant | LRU in turn | facts 3.4 |\n|---|---|---|---|---|---|---|---|---|")
    for preset in ("base", "stress"):
        for slots, facts in zip(SLOTS, FACTS_LRU[preset]):
            get = lambda policy: value(lines, "residency", f"{preset}-{slots}-{policy}")
            best, lru, lfu, bound = get("blend"), get("lru"), get("lfu"), get("clairvoyant")
            print(f"| {preset}, {slots} | {bound:.3f} | **{best:.3f}** | {lru:.3f} | {lfu:.3f} | "
                  f"{100 * (best - max(lru, lfu)):+.1f} | {100 * (bound - best):.1f} | "
                  f"{get('lru-in-turn'):.3f} | {facts:.2f} |")


def dispatch_table(lines):
    print("\n| link, CPU (GB/s) | slots | always stream | always CPU | chosen | to the better |\n"
          "|---|---|---|---|---|---|")
    for (bench, case), line in lines.items():
        match = re.fullmatch(r"link(\d+)-cpu(\d+)-slots(\d+)-best", case)
        if bench != "dispatch" or not match:
            continue
        link, cpu, slots = match.groups()
        stem = case[: -len("best")]
        print(f"| {link}, {cpu} | {slots} | {value(lines, bench, stem + 'stream'):.1f} | "
              f"{value(lines, bench, stem + 'cpu'):.1f} | {line['value']:.1f} | {line['ratio']:.3f} |")
    print(f"\nWorst: {value(lines, 'dispatch', 'worst-to-better-of-both'):.4f}.")


def hosts_table(lines):
    print("\n| preset, RAM | " + " | ".join(text for _, text in WAYS) + " |\n|---|---|---|---|---|")
    for preset in ("base", "stress"):
        for ram in RAM:
            cells = []
            for way, _ in WAYS:
                case = f"{preset}-{ram}GiB{way}"
                line = lines["hosts", case]
                layer = lines["hosts", case + "-hits-by-layer"]["ratio"]
                cells.append(f"{line['value']:.0f} of {line['ceiling']:.0f} ({line['ratio']:.2f}; "
                             f"{layer:.2f})")
            print(f"| {preset}, {ram} GiB | " + " | ".join(cells) + " |")


def ahead_table(lines):
    """By how many layers routers look ahead, and what the best of these still waits for."""
    print("\n| preset, RAM, lanes | token ids only | 1 ahead | 2 ahead | lost, ms a token: "
          + " | ".join(LOSSES) + " |\n|" + "---|" * (4 + len(LOSSES)))
    for preset in ("base", "stress"):
        for ram in (64, 128):
            for cpu, lanes in (("", "link"), ("-cpu", "link and CPU")):
                stem = f"{preset}-{ram}GiB{cpu}"
                cells = [f"{value(lines, 'hosts', f'{stem}-ahead-{depth}'):.1f}" for depth in range(3)]
                cells += [f"{value(lines, 'hosts', f'{stem}-prefetch-lost-{name}'):.2f}" for name in LOSSES]
                print(f"| {preset}, {ram} GiB, {lanes} | " + " | ".join(cells) + " |")


def plot_residency(plt, lines):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, preset in zip(axes, ("base", "stress")):
        for policy, colour in POLICIES:
            rates = [value(lines, "residency", f"{preset}-{s}-{policy}") for s in SLOTS]
            axis.plot(SLOTS, rates, marker="o", markersize=3, color=colour, label=policy)
        axis.set_title(preset)
        axis.set_xlabel("slots per layer of 256 experts")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("hit rate")
    axes[1].legend(loc="lower right")
    save(plt, figure, "residency.svg")


def plot_hosts(plt, lines):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, preset in zip(axes, ("base", "stress")):
        for i, (way, text) in enumerate(WAYS):
            rows = [lines["hosts", f"{preset}-{ram}GiB{way}"] for ram in RAM]
            places = [x + 0.2 * (i - 1.5) for x in range(len(RAM))]
            axis.bar(places, [r["value"] for r in rows], 0.19, label=text)
            axis.plot(places, [r["ceiling"] for r in rows], "_", color="black", markersize=9,
                      label="bound at that hit rate" if i == 3 else None)
        axis.set_title(preset)
        axis.set_xticks(range(len(RAM)), [f"{ram}" for ram in RAM])
        axis.set_xlabel("GiB of RAM")
    axes[0].set_ylabel("tokens/s")
    axes[1].legend(fontsize=7, loc="lower right")
    save(plt, figure, "hosts.svg")


def save(plt, figure, name):
    figure.tight_layout()
    figure.savefig(PLOTS / name, metadata={"Date": None})
    plt.close(figure)


def main():
    arguments = sys.argv[1:]
    tables = "--tables" in arguments
    paths = [a for a in arguments if a != "--tables"]
    if not paths:
        print(__doc__)
        return 2
    lines = load(paths)
    if tables:
        for bench, table in (("residency", residency_table), ("dispatch", dispatch_table),
                             ("hosts", hosts_table), ("hosts", ahead_table)):
            if any(name == bench for name, _ in lines):
                table(lines)
        return 0
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sluice"
    import matplotlib.pyplot as plt
    PLOTS.mkdir(exist_ok=True)
    plot_residency(plt, lines)
    plot_hosts(plt, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
