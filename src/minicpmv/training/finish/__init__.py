"""Measures, saves and verifies what was trained. Only ``run`` calls it."""
