"""Trains releases that transformers computes itself, by its classes: no network is written here, it is only joined."""
