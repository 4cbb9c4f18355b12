"""Writes to a terminal what is safe to be read there: no control characters, no secrets, no broken pipes."""
