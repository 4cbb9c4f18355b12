"""Reads and writes weights: keys, files, digests, end tokens. It knows no adapters."""
