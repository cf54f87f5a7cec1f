import re

import pytest

import jaxbp
from jaxbp import Layer
from tests.quantities.coverage_table import ROWS, examine, in_readme


@pytest.mark.parametrize("name", ROWS)
def test_each_quantity_is_that_of_jax_or_refused_by_name_as_the_readme_says(name):
    assert examine(name) == in_readme()[name]


def test_the_readme_has_the_rows_that_are_tested():
    assert list(in_readme()) == list(ROWS)


def test_every_public_layer_with_parameters_has_a_row():
    public = {name: getattr(jaxbp, name) for name in jaxbp.__all__}
    layers = {name: it for name, it in public.items() if isinstance(it, type) and issubclass(it, Layer)}
    learns = {name for name, it in layers.items() if it.param_gradient is not Layer.param_gradient}
    named = set(re.findall(r"`(\w+)`", " ".join(ROWS)))
    assert learns - named <= {"Composite", "Serial", "EncoderDecoder"}, (
        "give it a row in tests/quantities/coverage_table.py"
    )
