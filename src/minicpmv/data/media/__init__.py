"""Inspects the pictures and films that records name, and decodes films. It knows no torch, and trains on nothing."""
