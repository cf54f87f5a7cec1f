import jax
import jax.numpy as jnp

import jaxbp
from jaxbp import Dense, Serial, Tanh
from tests.support.inspected import MODEL, PAIR, TREES, X


def test_a_summary_lists_every_layer_with_its_output_and_parameters():
    lines = jaxbp.summary(MODEL, X).splitlines()
    assert [line.split() for line in lines if line[:1].isdigit()] == [
        ["0", "Dense(3)", "float32[4,", "3]", "12"],
        ["1.body.body", "Tanh()", "float32[2,", "4,", "3]", "0"],
        ["2.0", "Dense(2)", "float32[4,", "2]", "8"],
        ["2.1", "Tanh()", "float32[4,", "3]", "0"],
        ["3", "Concatenate()", "float32[4,", "5]", "0"],
        ["4", "Dense(1)", "float32[4,", "1]", "6"],
    ]
    assert lines[-1].split() == ["total", "26"]


def test_a_summary_needs_shapes_alone_and_large_numbers_have_commas():
    text = jaxbp.summary(Dense(1000), jax.ShapeDtypeStruct((1, 10**6), jnp.float32))
    assert "1,000,001,000" in text


def test_of_a_shared_layer_a_summary_shows_the_output_of_every_use_and_counts_its_parameters_once():
    lines = [line.split() for line in jaxbp.summary(TREES, PAIR).splitlines()]
    assert lines[2][:3] == ["input", "{left:", "float32[4,"]
    assert lines[3] == ["0.body.0", "Dense(2)", "(float32[4,", "2],", "float32[4,", "2])", "8"]
    assert lines[-1] == ["total", "26"]


def test_a_summary_needs_no_backward_pass():
    class OneWay(Tanh):
        def input_gradient(self, params, y, g):
            raise RuntimeError

    assert "OneWay()" in jaxbp.summary(Serial(Dense(2), OneWay()), X)
