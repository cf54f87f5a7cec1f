"""Learning through feedback weights other than the transposed ones."""
