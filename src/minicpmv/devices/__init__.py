"""Asks torch about the machine: which devices there are, and how much of their memory is free."""
