"""Compares answers with the expected ones; each module is a family of metrics. It knows no model."""
