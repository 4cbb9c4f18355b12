"""Queues, batches and writes answers. It knows no HTTP."""
