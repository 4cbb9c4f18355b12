"""Brings up what a run computes on and lets its processes talk. It knows nothing of what is learned."""
