"""Turns one conversation into tensors, alike for training, evaluation and chat. It knows no weights."""
