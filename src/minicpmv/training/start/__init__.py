"""Builds the trainer of a run, or tries it in a dry run. Only `run`, and the estimate, call it."""
