"""Holds the shipped DeepSpeed configurations, and finds the one that a run names."""
