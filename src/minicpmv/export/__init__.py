"""What a trained model is turned into for others: merged weights, GGUF files, a plugin for vLLM."""
