"""Turns a trained model into what others load: merged weights, GGUF files, a plugin for vLLM. It knows no training."""
