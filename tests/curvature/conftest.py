import jax
import pytest


@pytest.fixture(autouse=True)
def float64():
    """All of these tests compare with brute force in float64."""
    with jax.enable_x64(True):
        yield
