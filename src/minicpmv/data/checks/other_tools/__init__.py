"""Recognises keys, marks and records of other tools, each in a module. It knows no rule of our own form."""
