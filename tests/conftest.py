"""What all tests share: type annotations checked at run time, and a compiler that hurries.

Nearly all the time of these tests is XLA compiling small programs once, so it is told not to optimise them.
"""

import gc
import os
import subprocess
import sys

HURRY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)


def understood(flags: str) -> bool:
    """Whether this jaxlib knows these flags: one that does not know a flag ends the process at once."""
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(trial, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0


os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit what their controller has set
    for flags in HURRY:
        longer = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
        if understood(longer):
            os.environ["XLA_FLAGS"] = longer

import pytest  # noqa: E402
from jaxtyping import config, install_import_hook  # noqa: E402

install_import_hook("jaxbp", "beartype.beartype")
gc.set_threshold(100_000, 50, 100)  # tracing makes many objects that live: looking through them is a sixth of all


@pytest.fixture
def unchecked():
    """Switches the checked annotations off, to see the errors that users see."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
