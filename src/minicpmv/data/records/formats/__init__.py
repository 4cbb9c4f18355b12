"""Reads one container, or one trait of conversations, in each module. It knows no record but the one it reads."""
