"""Reads one trait of conversations in each module, from whatever file. It knows no record but the one it reads."""
