"""German to English (Multi30k)."""
