"""Runs a model over records to measure it. It is the one folder of ``evaluation`` that needs torch."""
