#!/bin/sh
# The tests that other versions of the libraries could change, with the lowest or the newest that pyproject.toml allows.
#
#   sh scripts/test_versions.sh lowest              every package that this one needs at its lower bound
#   sh scripts/test_versions.sh newest              each in the newest version that the index has
#   sh scripts/test_versions.sh lowest tests/unit   pytest with these arguments
#
# torch and the tools of the tests are those of the environment that test.sh uses. What differs lies before it, in
# .versions/lowest and .versions/newest: made at the first start, and again when pyproject.toml has changed. Remove
# .versions/newest to look for newer ones.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
UV=0.13.9

case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
lowest) resolution=lowest-direct ;;
newest) resolution=highest ;;
*)
    echo "found '${1:-}', expected lowest or newest" >&2
    echo "  fix: sh scripts/test_versions.sh lowest" >&2
    exit 2
    ;;
esac
FOLDER=$ROOT/.versions/$1
shift

EXTRAS=dev
. "$ROOT/scripts/environment.sh"
cd "$ROOT"

# Prints name==version of all that pyproject.toml needs, in the resolution asked for, but for torch and what it brings.
resolve() {
    "$PYTHON" -m venv "$FOLDER/uv"
    "$FOLDER/uv/bin/python" -m pip install --disable-pip-version-check --quiet "uv==$UV"
    "$FOLDER/uv/bin/uv" pip compile pyproject.toml --quiet --python "$PYTHON" --resolution "$resolution" \
        --no-annotate --no-header --output-file "$FOLDER/all.txt" >/dev/null
    grep -v -E '^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==' "$FOLDER/all.txt"
}

make_environment() {
    echo "Making $FOLDER (minutes, once)"
    rm -rf "$FOLDER"
    mkdir -p "$FOLDER"
    resolve >"$FOLDER/wanted.txt"
    # Only what the environment behind it does not have in that very version.
    "$PYTHON" -m pip list --disable-pip-version-check --format=freeze | tr 'A-Z_' 'a-z-' >"$FOLDER/there.txt"
    grep -v -x -F -f "$FOLDER/there.txt" "$FOLDER/wanted.txt" >"$FOLDER/different.txt" || :
    "$PYTHON" -m venv "$FOLDER/environment"
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$FOLDER/behind.txt"
    "$FOLDER/environment/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --no-deps \
        -r "$FOLDER/different.txt"
    cp "$FOLDER/behind.txt" "$("$FOLDER/environment/bin/python" -c '
import sysconfig
print(sysconfig.get_path("purelib"))')/behind.pth"
    cksum <pyproject.toml >"$FOLDER/made-of" # written last
}

if [ ! -f "$FOLDER/made-of" ] || [ "$(cat "$FOLDER/made-of")" != "$(cksum <pyproject.toml)" ]; then
    make_environment
fi
echo "Other versions than in $("$PYTHON" -c 'import sys; print(sys.prefix)'): $(tr '\n' ' ' <"$FOLDER/different.txt")"

export PYTHONPATH="$ROOT/src" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
if [ $# -eq 0 ]; then
    set -- -n 2 --dist loadfile -m "not slow and not engines" tests/parity tests/invariants tests/unit/models \
        tests/unit/processing tests/run/test_chat.py tests/run/test_compilation.py tests/run/test_engines.py \
        tests/run/test_merge.py tests/run/test_packing.py tests/run/test_precision.py tests/run/test_predict.py \
        tests/run/test_verification.py tests/run/test_recomputation.py tests/run/test_resume.py tests/run/test_training_*.py
fi
exec "$FOLDER/environment/bin/python" -m pytest "$@"
