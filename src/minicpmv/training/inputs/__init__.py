"""Opens what a run starts from: base checkpoint, data, planned batches. It knows no Trainer."""
