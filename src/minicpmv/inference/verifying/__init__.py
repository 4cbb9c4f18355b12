"""Compares a model directory with what is expected of its release, for real weights that no test has."""
