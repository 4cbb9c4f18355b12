"""A release that nobody released: other names, another connector, other words. Nothing in ``src`` knows of it.

Where a later release needs more than a row and what the row names, a test that runs this one fails first.
"""
