"""Decides by hardware: each decision is a function of one small frozen value. It knows no torch, no model and no data.

``system`` alone looks at the machine, and ``devices`` with torch. Everything else is given what they found, so that a
table of cards that nobody here has tests it.
"""
