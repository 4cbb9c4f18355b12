"""Merges an adapter into its base, one tensor at a time, and verifies the result."""
