#!/usr/bin/env bash
# Registers, shared memory, stack and spills of every GPU kernel, as ptxas reports them for one
# architecture. Called by ./run gpu-report. Fails when a kernel spills to local memory, unless its
# file gives the reason on a line with the word "Spills:"; and when a chained kernel (launch.cuh) writes
# before launch_await, reads there without saying so ("Before launch_await:"), or never calls it.
set -euo pipefail
arch=${1:-90a}
work=build/gpu-report
rm -rf "$work"
mkdir -p "$work"

compile() {
    local name=$3/$(basename "$1" .cu)
    { nvcc -std=c++17 -O3 --fmad=false -I. -Xcompiler -Wno-missing-field-initializers \
        -arch="compute_$2" -ptx -o "$name.ptx" "$1" &&
        ptxas -v -arch="sm_$2" -o "$name.cubin" "$name.ptx"; } >"$name.txt" 2>&1 || { cat "$name.txt" >&2; exit 1; }
}
export -f compile
printf '%s\n' kernels/cuda/*.cu | xargs -P "$(nproc)" -I{} bash -c 'compile {} '"$arch $work"

# One line a kernel: file, registers, shared bytes, stack, spill stores and loads, name.
for report in "$work"/*.txt; do
    awk -v file="$(basename "$report" .txt).cu" '
        /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
        /bytes stack frame/ {
            match($0, /[0-9]+ bytes stack/); stack = substr($0, RSTART) + 0
            match($0, /[0-9]+ bytes spill stores/); stores = substr($0, RSTART) + 0
            match($0, /[0-9]+ bytes spill loads/); loads = substr($0, RSTART) + 0
        }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5) + 0
            shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART) + 0 : 0
            print file, registers, shared, stack, stores, loads, name
        }' "$report"
done | c++filt -p >"$work/kernels"

printf '%-22s %9s %7s %6s %7s %7s  kernel (sm_%s)\n' file registers shared stack stores loads "$arch"
awk '{ name = $7
       for (i = 8; i <= NF; i++) name = name " " $i
       printf "%-22s %9d %7d %6d %7d %7d  %s\n", $1, $2, $3, $4, $5, $6, name }' "$work/kernels"

unexplained=0
while read -r file; do
    grep -q 'Spills:' "kernels/cuda/$file" || { echo "$file: spills without a reason" >&2; unexplained=1; }
done < <(awk '$5 + $6 > 0 { print $1 }' "$work/kernels" | sort -u)
echo "$(wc -l <"$work/kernels") kernels, $(awk '$5 + $6 > 0' "$work/kernels" | wc -l) with spills"

# What a kernel does to memory before it waits for the one before it.
for ptx in "$work"/*.ptx; do
    awk -v file="$(basename "$ptx" .ptx).cu" '
        /[.]entry/ { match($0, /[A-Za-z0-9_$]+[(]/); name = substr($0, RSTART, RLENGTH - 1); waiting = 1 }
        waiting && /griddepcontrol[.]wait/ { waiting = 0 }
        waiting && /^[ \t]*(@!?%p[0-9]+[ \t]+)?(st|atom|red|cp)[.]/ && !/[. ]st[.](shared|local)|st[.]shared|st[.]local/ { print file, "writes", name }
        waiting && /^[ \t]*(@!?%p[0-9]+[ \t]+)?ld[.]/ && !/ld[.](param|shared|local|const)/ { print file, "reads", name }
        /^}/ && waiting { print file, "never-comes", name; waiting = 0 }' "$ptx"
done | c++filt | sort | uniq -c >"$work/early"
if [ "${arch%%[a-z]*}" -ge 90 ]; then
    while read -r count file what name; do
        sources=("kernels/cuda/$file" $(sed -n 's/^#include "\(kernels.cuda[^"]*\)".*/\1/p' "kernels/cuda/$file"))
        if [ "$what" = reads ] && grep -q 'Before launch_await:' "${sources[@]}"; then
            echo "$file: $count loads before launch_await in $name"
        else
            echo "$file: before launch_await it $what, $count times: $name" >&2
            unexplained=1
        fi
    done <"$work/early"
fi
exit "$unexplained"
