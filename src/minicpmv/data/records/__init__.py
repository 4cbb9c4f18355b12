"""Reads data files of any form into records. It knows no torch, and judges nothing."""
