"""Attention and the transformer's parts."""
