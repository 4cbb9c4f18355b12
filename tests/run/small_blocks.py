"""``python -m tests.run.small_blocks HOW FLAGS``: the training command, whose planner packs four records at a time.

HOW is ``shared``: processes share the planning, as they do where records are many; or ``alone``: each plans everything.
"""

from __future__ import annotations

import sys

from minicpmv.data.batches import row_planner
from minicpmv.training.__main__ import main
from minicpmv.training.start import planned

if __name__ == "__main__":
    how, *flags = sys.argv[1:]
    row_planner._BLOCK = 4
    if how == "alone":
        planned.work_together = None  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(main(flags))
