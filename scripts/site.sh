#!/bin/sh
# Builds the documentation site; every warning is an error, such as a link or an anchor that leads nowhere.
#
#   sh scripts/site.sh           into build/site; open build/site/index.html
#   sh scripts/site.sh FOLDER    into FOLDER
#
# Sphinx lies in a folder of its own, .site, and not in the environment: other tools want another docutils. It is installed
# once for each requirements/docs.txt and Python, in the versions and with the hashes of that file.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)

EXTRAS=
. "$ROOT/scripts/environment.sh"

packages=$ROOT/.site/$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(cksum <"$ROOT/requirements/docs.txt" | tr ' ' '-')
if [ ! -f "$packages/ready" ]; then
    echo "Installing Sphinx into $packages (once)"
    rm -rf "$packages"
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --quiet --no-deps --require-hashes \
        --target "$packages" -r "$ROOT/requirements/docs.txt"
    : >"$packages/ready"
fi
export PYTHONPATH="$packages:$ROOT${PYTHONPATH:+:$PYTHONPATH}"
# An import that would download something fails instead.
export HF_HUB_OFFLINE=1
cd "$ROOT"
exec "$PYTHON" -m website "$@"
