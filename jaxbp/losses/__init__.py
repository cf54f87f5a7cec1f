"""The losses, one file a family."""
