"""Makes tensors of records. It is the one folder of ``data`` that needs torch."""
