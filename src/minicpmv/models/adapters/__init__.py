"""Attaches LoRA adapters and says which base each belongs to. It trains nothing."""
