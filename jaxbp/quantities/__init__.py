"""Quantities taken at each layer by one reverse sweep. A new one is a visit, in a file of its own."""
