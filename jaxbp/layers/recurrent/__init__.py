"""Layers that run through time."""
