"""Holds recipes of tasks, and writes one for a model and a card, by what the estimate says. It loads no weights."""
