"""Turns a picture into slices and patches, and places its tokens on a canvas. It knows no torch and no text."""
