"""Defines the networks around the language model: vision tower, resampler, loss. It reads no files."""
