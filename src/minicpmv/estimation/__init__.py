"""Predicts the memory and time of a run before there is a device to run it on. It loads no weights."""
