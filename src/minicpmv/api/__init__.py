"""Offers what the commands do to Python programs and notebooks. Nothing in the package imports it."""
