"""Reads the command line, one module for each command, whose body is imported when it runs. Nothing imports it."""
