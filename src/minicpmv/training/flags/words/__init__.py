"""Reads what a user wrote, on a command line or in a file, as values of settings. It resolves nothing."""
