"""Measure a model on records with known answers."""
