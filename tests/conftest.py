"""What all tests share: type annotations checked at run time, and a compiler that hurries.

Nearly all the time of these tests is XLA compiling small programs once, so it is told not to optimise them.
"""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import pytest
from jaxtyping import config, install_import_hook

install_import_hook("jaxbp", "beartype.beartype")
gc.set_threshold(100_000, 50, 100)  # tracing makes many objects that live: looking through them is a sixth of all


@pytest.fixture
def unchecked():
    """Switches the checked annotations off, to see the errors that users see."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
