"""Talk to a base model, a fine-tuned directory or an adapter."""
