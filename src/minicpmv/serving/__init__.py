"""Answers over HTTP, as OpenAI's chat completions. It knows no training."""
