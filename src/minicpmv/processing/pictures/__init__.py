"""Turns a picture into slices and patches. It knows no torch and no text."""
