"""Measurements of speed and memory. They make their own models and data, and no test depends on them."""
