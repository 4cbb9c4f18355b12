"""``python -m tests.run.small_blocks HOW FLAGS``: the training command, whose planner packs four records at a time.

HOW is ``shared``: processes share the planning, and one copy of what is known of the records, as they do where there
are many; or ``alone``: each plans everything.
"""

from __future__ import annotations

import sys

from minicpmv.data import machine_copies
from minicpmv.data.batches import row_planner
from minicpmv.training.__main__ import main
from minicpmv.training.start import planned

if __name__ == "__main__":
    how, *flags = sys.argv[1:]
    row_planner._BLOCK = 4
    if how == "shared":
        machine_copies._WORTH_A_FILE = 1
    else:
        plan = planned.plan_batches
        planned.plan_batches = lambda *given, **settings: plan(*given, **{**settings, "together": None})
    sys.exit(main(flags))
