"""Offers the records of a data file on the page. It knows nothing of conversations."""
