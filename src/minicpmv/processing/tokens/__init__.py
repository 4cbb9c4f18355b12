"""Turns the segments of a conversation into tokens with labels. It knows no pixels and no messages."""
