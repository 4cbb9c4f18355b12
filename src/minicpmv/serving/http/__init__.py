"""Holds connections, listens and limits. It knows no model and no chat."""
