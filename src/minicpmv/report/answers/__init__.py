"""The answers of a report: pairs of before and after, their pictures and films, and how they are spread."""
