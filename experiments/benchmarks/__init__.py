"""Speed and memory of the hand-written backward pass, against jax.grad of the same forward and against PyTorch."""
