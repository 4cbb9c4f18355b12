"""Measures a model on records with known answers, and compares two. It knows no training."""
