"""Imported last by the process that all others fork from: no garbage collection looks again at what is there then.

Looking means touching, and the system copies what a forked process touches: without this, 50,000 pages in a run of four
steps instead of 28,000.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
