"""Decides at each step whether a run goes on, stops or fails. It knows no Trainer."""
