"""Holds what the pages of ``show`` and ``report`` share: template engine, styles, pictures. It knows no records."""
