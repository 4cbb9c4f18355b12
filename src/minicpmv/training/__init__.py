"""One fine-tuning run, from flags to a saved and usable model."""
