"""What several experiments use: data, plots, training, command lines."""
