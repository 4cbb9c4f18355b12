"""Holds a small model and real pictures, so that everything can be tried without a download. It trains nothing."""
