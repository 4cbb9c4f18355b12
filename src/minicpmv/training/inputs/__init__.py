"""Opens the inputs of a run: base checkpoint, data, planned batches. It knows no Trainer."""
