"""Turns a conversation into segments of text and pictures. It knows no torch and no tokenizer."""
