#!/usr/bin/env bash
# One archive that runs on another x86-64 Linux with the same or a newer C library: the program, the
# shared libraries it needs beside it, their licences, the manual. Called by ./run package with the
# build folder; prints the archive's name.
#
# Left to the target: the C library (it must fit its kernel and its name services) and the GPU's
# driver (it must fit its GPU).
set -euo pipefail
build=$1
glibc_max=2.36 # Debian 12; newer symbols would break the promise of the README

die() { printf 'package: %s\n' "$*" >&2; exit 1; }

# Paths of the shared libraries a program asks for, less those that are left to the target.
needed_libraries() {
    ldd "$1" | awk '$2 == "=>" { print $3 }' |
        grep -vE '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util)\.so|libcuda\.so|libnvidia[^/]*)' || true
}

# The licence of the package a library came from; Debian keeps them all in one place.
copy_licence() {
    local library=$1 target=$2 package
    # By name: the directory is /lib or /usr/lib, and the package list knows one of the two.
    library=$(realpath "$library")
    package=$(dpkg-query -S "*/${library##*/}" | sed 's/:.*//;1q')
    [ -f "/usr/share/doc/$package/copyright" ] || die "no licence found for $library"
    cp -L "/usr/share/doc/$package/copyright" "$target/$package.txt"
}

# Fails when a file asks for a newer C library than the README promises.
check_symbols() {
    local newest
    newest=$(objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
    [ "$(printf '%s\n' "$glibc_max" "${newest:-0}" | sort -V | tail -n 1)" = "$glibc_max" ] ||
        die "$1 needs glibc $newest, and the package is to run with $glibc_max: build it on Debian 12"
}

version=$("$build/sluice" --version | awk '{ print $NF }')
name=sluice-$version-linux-$(uname -m)
stage=$build/package/$name
rm -rf "$build/package"
mkdir -p "$stage/bin" "$stage/lib" "$stage/licences" "$stage/man/man1"

cp "$build/sluice" "$stage/bin/"
strip "$stage/bin/sluice"
check_symbols "$stage/bin/sluice"
for library in $(needed_libraries "$build/sluice"); do
    cp -L "$library" "$stage/lib/"
    check_symbols "$stage/lib/${library##*/}"
    copy_licence "$library" "$stage/licences"
done
# The old kind of path, which the libraries' own libraries are looked up in as well.
patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$stage/bin/sluice"
cp LICENSE "$stage/licences/sluice.txt"
cp docs/sluice.1 "$stage/man/man1/"
cat >"$stage/README" <<TEXT
Sluice $version. Unpack anywhere and run bin/sluice; nothing is installed, nothing else is needed
beyond glibc $glibc_max or newer. "man -l man/man1/sluice.1" is the manual; licences/ holds the
licence of the program and of every library in lib/. Long prompts through OpenBLAS
(--prefill fast) need that library from the system.
TEXT

# Debian's notices refer to the common licences by name: their texts come along.
grep -ho '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' "$stage"/licences/*.txt | sort -u |
    while read -r text; do
        [ ! -f "$text" ] || cp -L "$text" "$stage/licences/"
    done

# Same tree, same archive: order, owners and times are fixed.
stamp=$(git log -1 --format=%ct 2>/dev/null || echo 0)
archive=$build/package/$name.tar.gz
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" -C "$build/package" -cf - "$name" |
    gzip -9n >"$archive"
printf '%s\n' "$archive"
