"""Declares our own settings, a group in each module. It reads and refuses nothing."""
