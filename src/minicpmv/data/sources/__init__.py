"""Loads, checks, mixes and surveys whole data files. It knows no torch and no model."""
