"""Decides which weights learn, how, and at what price. It knows no data and no checkpoint."""
