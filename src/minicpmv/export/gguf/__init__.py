"""Writes GGUF files for llama.cpp and reads them back to verify them."""
