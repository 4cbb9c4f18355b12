"""Defines the models and reads and writes their weights. It knows no data and no training."""
