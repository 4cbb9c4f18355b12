#!/bin/sh
# Installs this checkout, editable, and everything that it needs into the environment of PYTHON (python3 by default).
#
#   sh scripts/install.sh            what training needs
#   sh scripts/install.sh serve,ui   and what these extras of pyproject.toml need
#   sh scripts/install.sh all        and what all of them need, but those for work on this package
#
# Every package is installed in the version of requirements/, and its file must have one of the hashes written there. An
# index can therefore offer nothing else, whichever indexes pip is configured with. torch is the exception: see
# constraints.txt.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
EXTRAS=${1:-}
if [ "$EXTRAS" = all ]; then # all that a user of the package can use
    EXTRAS=$(cd "$ROOT/requirements" && ls | sed 's/\.txt$//' | grep -v -x -e base -e build -e dev -e docs | tr '\n' ',')
fi

locked=
for extra in $(echo "$EXTRAS" | tr ',' ' '); do
    if [ ! -f "$ROOT/requirements/$extra.txt" ]; then
        known=$(cd "$ROOT/requirements" && ls | sed 's/\.txt$//' | grep -v -e '^base$' -e '^build$' | tr '\n' ' ')
        echo "found the extra $extra, expected one of: $known" >&2
        echo "  fix: correct the name" >&2
        exit 2
    fi
    locked="$locked $extra"
done

# Installs what is given, without asking an index what else it may need.
pip_install() {
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --no-deps "$@"
}

cd "$ROOT"
pip_install --require-hashes -r requirements/build.txt # first: deepspeed comes as source, and is built with it
pip_install --require-hashes --no-build-isolation -r requirements/base.txt
for extra in $locked; do
    pip_install --require-hashes --no-build-isolation -r "requirements/$extra.txt"
done
# Where NVIDIA's driver is too old for the build that package indexes offer, the one that it runs.
torch=$(PYTHONPATH=$ROOT/src "$PYTHON" -m minicpmv.machine.torch_builds)
# shellcheck disable=SC2086 # words of their own
"$PYTHON" -m pip install --disable-pip-version-check --no-input -c constraints.txt $torch
pip_install --no-build-isolation -e .
