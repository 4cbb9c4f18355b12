"""Decides which frames of a film are taken, from facts of its header. It knows no torch, no decoder and no pixels."""
