"""Decides by hardware: each decision is a function of one small frozen value, and gives its reason.

``system`` and ``inspection`` alone look at the machine, the second with torch. Everything else is given what they
found, so that a table of cards that nobody here has tests it. Nothing here knows models or data.
"""
