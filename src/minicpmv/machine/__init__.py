"""Makes the decisions that depend on hardware, each from one small frozen value. It knows no torch, model or data.

Only ``system`` looks at the machine, and ``devices`` does with torch. Everything else is given what they found, so a
table of cards can test it without the cards.
"""
