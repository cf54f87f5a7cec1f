"""K-FAC against Adam, in steps and in seconds."""
