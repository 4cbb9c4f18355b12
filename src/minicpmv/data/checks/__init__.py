"""Judges records, each fault with a code. It knows no torch, and opens no data file."""
