"""Holds what the pages of ``show`` and ``report`` share: templates and embedded pictures. It knows no records."""
