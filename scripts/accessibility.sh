#!/bin/sh
# axe-core on a report, the page of `show`, that of `ui`, and every page of the site, at 390, 768 and 1,280 pixels: fails
# where it finds something serious or critical. Needs Chromium (apt-get install chromium) and a package index, once.
#
#   sh scripts/accessibility.sh           all pages
#   sh scripts/accessibility.sh -k ui     only pytest's choice of them
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)

EXTRAS=dev
. "$ROOT/scripts/environment.sh"
cd "$ROOT"

PYTHON=$PYTHON sh scripts/engines.sh axe
sh scripts/site.sh
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
exec "$PYTHON" -m pytest -m engines tests/engines/test_accessibility.py "$@"
