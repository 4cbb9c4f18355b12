"""Shows and records what a run does: progress, metrics, samples, ``run.json``. It knows no Trainer."""
