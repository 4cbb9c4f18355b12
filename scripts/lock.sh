#!/bin/sh
# Remakes requirements/*.txt: every package that this one needs, in one version each, with the hashes of its files.
#
#   sh scripts/lock.sh             keeps the versions that are there, and adds what pyproject.toml asks for since
#   sh scripts/lock.sh --upgrade   takes the newest versions that pyproject.toml allows; run the tests afterwards
#
# base.txt is what the package itself needs, the others what an extra of that name needs in addition. The files hold for
# every Python and platform at once. torch is not in them, since its wheel differs by package index (CPU, CUDA, ROCm):
# constraints.txt pins it, and it brings NVIDIA's libraries and triton in the versions that it asks for.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
UV=0.13.9
EXTRAS="data films qlora metrics modelscope serve ui trl docs dev"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --disable-pip-version-check --quiet "uv==$UV"

# Locks the requirements in file $1 as requirements/$2.txt; further arguments go to uv.
lock() {
    _from=$1 _name=$2
    shift 2
    for _known in base dev "$_name"; do # versions in existing files are kept; those of the tests also by the other locks
        [ ! -f "$ROOT/requirements/$_known.txt" ] || cat "$ROOT/requirements/$_known.txt"
    done >"$work/$_name.txt"
    "$work/uv/bin/uv" pip compile "$_from" --quiet --universal --python-version 3.10 --generate-hashes \
        --no-annotate --no-header --constraints "$ROOT/constraints.txt" --overrides "$work/overrides.txt" \
        --no-emit-package torch --output-file "$work/$_name.txt" "$@"
}

# Prints the entries of file $1 that are not in file $2. An entry is a line `name==version` and its lines of hashes.
entries_beyond() {
    awk '
        /^[a-z0-9]/ { entry = $0; sub(/ *\\$/, "", entry) }
        FILENAME == ARGV[1] { known[entry]; next }
        entry ~ /^(nvidia-|cuda-|triton)/ { next } # they come with torch
        !(entry in known)
    ' "$2" "$1"
}

# gradio declares pillow<13, but Pillow 12 has published faults in its JPEG decoder, and gradio works with 13 (the tests
# run so). No Pillow 13 for Python 3.10: there the last 12 has to do.
cat >"$work/overrides.txt" <<'OVERRIDES'
pillow>=13; python_version >= '3.11'
pillow>=12.3,<13; python_version < '3.11'
OVERRIDES
printf '%s\n' 'hatchling>=1.27' 'setuptools>=77' >"$work/build.in" # this package, and deepspeed
: >"$work/nothing.txt"

mkdir -p "$ROOT/requirements"
lock "$work/build.in" build "$@"
lock "$ROOT/pyproject.toml" base "$@"
cp "$work/base.txt" "$work/all-of-base.txt"
for extra in $EXTRAS; do
    lock "$ROOT/pyproject.toml" "$extra" --extra "$extra" "$@"
done
for name in build base; do
    entries_beyond "$work/$name.txt" "$work/nothing.txt" >"$ROOT/requirements/$name.txt"
done
for extra in $EXTRAS; do
    entries_beyond "$work/$extra.txt" "$work/all-of-base.txt" >"$ROOT/requirements/$extra.txt"
done
