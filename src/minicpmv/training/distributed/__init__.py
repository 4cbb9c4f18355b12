"""Sets up the devices and processes of a run and their communication. It knows nothing of what is learned."""
