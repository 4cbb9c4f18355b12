"""Judges records, each fault with a code of ``assets/codes.md``. It knows no torch, and opens no data file."""
