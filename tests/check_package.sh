#!/usr/bin/env bash
# Unpacks an archive of ./run package into a tree that holds nothing else but the C library, and runs
# it there as a user would: no network, nothing of this machine in sight.
set -euo pipefail
archive=$(realpath "$1")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# /proc belongs to any Linux: the loader finds the libraries beside the program through it.
enter=(unshare --net --mount --pid --fork)
[ "$(id -u)" -eq 0 ] || enter+=(--map-root-user)
"${enter[@]}" true 2>/dev/null || { echo "skipped: this system allows no namespaces" >&2; exit 77; }

mkdir -p "$tree/lib64" "$tree/lib" "$tree/tmp" "$tree/proc" "$tree/somewhere else"
cp -L /lib64/ld-linux-x86-64.so.2 "$tree/lib64/"
for library in libc.so.6 libm.so.6; do
    cp -L "/lib/x86_64-linux-gnu/$library" "$tree/lib/"
done
tar -xzf "$archive" -C "$tree/somewhere else"
program=$(find "$tree/somewhere else" -path '*/bin/sluice')
program=${program#"$tree"}

inside() {
    "${enter[@]}" sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$tree" "$program" "$@"
}
inside --version
inside synth --preset tiny --seed 7 -o /tmp/model --quiet
inside inspect -m /tmp/model --ram 2M >/dev/null
inside pack -m /tmp/model --quiet
words=$(inside run -m /tmp/model --ram 2M -p "What is a sluice?" -n 8 --seed 7 --quiet | wc -c)
[ "$words" -gt 0 ] || { echo "the unpacked program generated nothing" >&2; exit 1; }
count=$(find "$tree" -name '*.txt' -path '*licences*' | wc -l)
libraries=$(find "$tree/somewhere else" -name '*.so*' | wc -l)
[ -n "$program" ] && [ "$count" -gt "$libraries" ] || { echo "$libraries libraries and only $count licences" >&2; exit 1; }
echo "the package runs in an empty tree: $libraries libraries, $count licences, $(du -h "$archive" | cut -f1)"
