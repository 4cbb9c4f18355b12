"""Starts the processes of a run and ends with them. It knows nothing of models or data."""
