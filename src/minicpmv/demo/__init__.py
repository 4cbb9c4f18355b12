"""A small model and real images inside the package, so that everything can be tried without a download."""
