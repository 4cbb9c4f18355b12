"""Answer over HTTP, as OpenAI's chat completions."""
