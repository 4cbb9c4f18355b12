"""Chooses the tokens of an answer. It knows no pictures and no files."""
