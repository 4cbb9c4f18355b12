"""Writes the page that shows how a run went. It knows no torch and no model, and reads what a run has left."""
