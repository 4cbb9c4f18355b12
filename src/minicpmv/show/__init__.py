"""Writes the page that shows records as the model sees them. It loads no weights."""
