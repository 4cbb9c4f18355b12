"""The comparison with other trainers: each in an environment of its own, on the same weights and records."""
