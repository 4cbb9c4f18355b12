"""What an answer is worth beside the answers that were expected: one module for each family of metrics."""
