"""Tuned models in the files of other engines."""
