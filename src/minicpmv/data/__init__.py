"""From files to records and batches."""
