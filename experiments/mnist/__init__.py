"""Handwritten digits: dense and convolutional networks on MNIST."""
