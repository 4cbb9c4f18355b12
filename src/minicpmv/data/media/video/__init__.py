"""Decodes film files through PyAV, which no other room imports. It knows no records, and chooses no frames."""
