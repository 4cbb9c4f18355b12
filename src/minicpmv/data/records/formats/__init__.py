"""Reads one container or one style of conversation in each module. It knows no other record than the one it reads."""
