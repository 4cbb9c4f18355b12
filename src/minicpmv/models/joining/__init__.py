"""Joins pictures, language and loss for every network, ours or not: what a release computes stands elsewhere."""
