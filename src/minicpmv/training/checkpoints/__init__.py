"""Writes checkpoints that are complete or absent, and resumes from them. It knows no Trainer."""
