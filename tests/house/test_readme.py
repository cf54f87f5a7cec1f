"""The README stays true: its examples run, one after the other, and what it names exists."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_examples_run_in_order_and_say_what_they_claim():
    names = {}
    printed = io.StringIO()
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
    assert "All gradients agree with jax.grad" in printed.getvalue()
    claimed = re.search(r"report\.first_wrong\.mistake\s+# (.*)", README)[1]
    assert (names["report"].first_wrong.path, names["report"].first_wrong.mistake) == eval(claimed)


def test_the_first_example_has_at_most_twenty_lines():
    assert len(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1].splitlines()) <= 20


def test_every_experiment_that_is_named_exists_and_ci_runs_the_main_job_and_the_test_command():
    for module in re.findall(r"python -m ([\w.]+)", README):
        assert importlib.util.find_spec(module) is not None, module
    ci = (ROOT / ".ci" / "run").read_text()
    assert "python -m experiments.digits" in ci
    assert "\npytest" in ci
    assert '```sh\npip install -e ".[test]"\npytest\n```' in README


def test_every_link_and_file_that_is_named_exists():
    for path in re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"`((?:jaxbp|experiments)/[\w/]+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_every_name_in_the_table_of_what_works_is_public():
    import jaxbp

    table = README.split("## What works")[1].split("##")[0]
    for name in re.findall(r"`(\w+)`", table):
        assert hasattr(jaxbp, name), name
