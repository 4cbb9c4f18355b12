"""What holds for every test, however pytest was started. Set before anything imports torch."""

from __future__ import annotations

import os

# The models here are tiny: a second thread only waits for the first, and makes steps up to 90 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that would download something fails instead.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
