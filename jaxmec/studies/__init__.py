"""Comparisons as data: a study's cells, what they measured, and what is shown of it."""
