"""Makes output safe for a terminal: no control characters, no secrets, no broken pipes."""
