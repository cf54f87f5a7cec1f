"""PyTorch as a second oracle: where it is missing (the extra `oracles`) its tests are left out, and the run says so."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_torch*.py"]


def pytest_report_header():
    return [] if find_spec("torch") else ["tests/oracles: PyTorch is missing, its tests are left out"]
