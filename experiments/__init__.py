"""Experiments: one module a claim. `python -m experiments.digits --help` shows what can be changed."""
