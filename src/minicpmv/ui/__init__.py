"""Serves a page in the browser to talk to one model, or to two side by side. It knows no training."""
