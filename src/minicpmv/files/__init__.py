"""Writes and reads files: whole or not at all, within limits, where there is room. It knows no torch and no model."""
