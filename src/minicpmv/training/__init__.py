"""Trains: from flags to a saved, verified model. ``run.py`` reads from top to bottom."""
