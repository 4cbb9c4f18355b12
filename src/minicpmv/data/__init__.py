"""Brings records from files into batches. It knows no network and no training."""
