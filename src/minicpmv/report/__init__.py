"""Pages that show a person what came of a run."""
