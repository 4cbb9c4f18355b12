#!/bin/sh
# Every check and test, on a machine that has only Python: the environment is made first if need be.
#
#   sh test.sh                        lint, format, types, imports, spelling, then all tests that are not marked
#                                     long, slow or engines
#   sh test.sh -m "long and not slow" what takes several processes, real interpreters or long runs; CI does both
#   sh test.sh -m slow                those repeat with another engine or model what others show
#   sh test.sh -m engines             other engines run what is exported; their environments are made first (minutes, 4 GB)
#   sh test.sh tests/unit -k slicing  only pytest, with these arguments
set -eu
ROOT=$(cd "$(dirname "$0")" && pwd)

EXTRAS=dev
. "$ROOT/scripts/environment.sh"
cd "$ROOT"

# The models in the tests are tiny: more threads only wait for each other, and pytest already runs two processes.
export OMP_NUM_THREADS=1
# A test that would download something fails instead.
export HF_HUB_OFFLINE=1

case " $* " in
*" -m engines "*) sh "$ROOT/scripts/engines.sh" ;;
esac
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi

check() {
    echo "== $*"
    "$@"
}
check ruff check .
check ruff format --check .
# Types take minutes of one processor; the other looks at the rest meanwhile, and builds the site.
types=$(mktemp)
pyright --pythonpath "$(command -v "$PYTHON")" >"$types" 2>&1 &
typing=$!
trap 'kill "$typing" 2>/dev/null || true; rm -f "$types"' EXIT
trap 'exit 130' INT TERM
check lint-imports
check codespell
for script in *.sh scripts/*.sh; do
    sh -n "$script"
done
# The site, into build/site, which tests/docs/test_site.py looks at.
check sh scripts/site.sh
echo "== pyright"
wait "$typing" || { cat "$types"; exit 1; }
cat "$types"
# In the order of the folders, so that the long runs do not come last, on one processor.
check "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long and not slow and not engines"
