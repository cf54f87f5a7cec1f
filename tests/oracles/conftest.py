"""Other libraries as oracles: where one is missing (each is an extra) its tests are left out, and the run says so."""

from importlib.util import find_spec

MISSING = {
    name: tests
    for name, tests in {
        "torch": "test_torch*.py",
        "backpack": "test_backpack.py",
        "kaldi_native_fbank": "test_kaldi_speech.py",
        "traceax": "test_curvature_libraries.py",
        "matfree": "test_curvature_libraries.py",
    }.items()
    if find_spec(name) is None
}
collect_ignore_glob = list(MISSING.values())


def pytest_report_header():
    return [f"tests/oracles: {name} is missing, its tests are left out" for name in MISSING]
