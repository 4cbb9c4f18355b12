"""Declares, reads and resolves the settings of a run. It knows no model and no data."""
