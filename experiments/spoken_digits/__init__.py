"""Spoken digits, one at a time and in strings."""
