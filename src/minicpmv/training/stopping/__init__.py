"""Decides at each step whether a run continues, stops or fails. It knows no Trainer."""
