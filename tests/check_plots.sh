#!/usr/bin/env bash
# Two simulations become one picture, and what is none is refused. usage: check_plots.sh SLUICE
set -euo pipefail
sluice=$1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
options=(--layers 4 --width 32 --top 2 --expert-bytes 1M --gpu 20M --ram 60M --warm 20 --tokens 50 --json)
for policy in lru clairvoyant; do
    "$sluice" simulate "${options[@]}" --policy "$policy" >"$directory/$policy.json"
done
python3 bench/plot_simulations.py "$directory/lru.json" "$directory/clairvoyant.json" >"$directory/both.svg"
python3 - "$directory/both.svg" <<'PYTHON'
import sys, xml.dom.minidom
words = [node.firstChild.data for node in xml.dom.minidom.parse(sys.argv[1]).getElementsByTagName("text")]
assert "lru" in words and "clairvoyant" in words, words
assert sum("tokens/s of" in text for text in words) == 2, words
PYTHON
if python3 bench/plot_simulations.py README.md 2>"$directory/refusal"; then exit 1; fi
grep -q "README.md: not a report" "$directory/refusal"
