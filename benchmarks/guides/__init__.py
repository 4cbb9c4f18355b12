"""What fine-tuning gives, by number of records, settings and share of negatives: ``python -m benchmarks guides``.

All runs are of the demo's small model, by the training command's own code, and are measured on held-out pictures. The
guides in ``docs/`` show their tables. Each seed takes 22 minutes of one core; a second start goes on where the first
one ended.
"""

from benchmarks.guides.measuring import measure

__all__ = ["measure"]
