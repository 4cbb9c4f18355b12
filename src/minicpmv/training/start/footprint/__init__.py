"""Predicts the memory of a step of a run, by component, on tensors without contents. It knows no Trainer."""
