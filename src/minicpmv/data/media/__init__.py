"""Inspects the image files that records name. It knows no torch, and trains on nothing."""
