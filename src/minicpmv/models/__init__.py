"""What the networks are: no data, no training code."""
