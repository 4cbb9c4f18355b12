"""Decides by hardware: each decision is a function of one small frozen value, and says its reason.

``inspection`` alone looks at the machine; everything else is given what it found, so that a table of cards that nobody
here has tests it. Nothing here knows flags, models or data.
"""
