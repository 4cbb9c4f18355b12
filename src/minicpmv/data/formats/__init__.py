"""What data files look like: one module for each container, and one for the styles of conversations inside them."""
