"""Writes checkpoints that are whole or absent, and resumes from them. It knows no Trainer."""
