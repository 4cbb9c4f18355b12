"""Attends sequences of unequal length that lie end to end. It knows no layer and no release."""
