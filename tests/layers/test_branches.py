from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import pytest

from jaxbp import (
    Concatenate,
    LayerError,
    Select,
    Serial,
    Split,
    check_layer,
)
from tests.support.arrays import labels, normal


class Pair(NamedTuple):
    """Two entries by name."""

    left: Any
    right: Any = None


A, B, C = normal(4, 2, 3), normal(4, 5, seed=1), normal(4, seed=2)
TREES = {
    "of a tuple": (Select(1), (A, B)),
    "of a list": (Select(0), [A, B]),
    "of a dict": (Select("b"), {"a": A, "b": B}),
    "a number for each example": (Select("c"), {"a": A, "c": C}),
    "of a named tuple by name": (Select("right"), Pair(A, B)),
    "of a named tuple by place": (Select(0), Pair(A, B)),
    "beside nothing": (Select("left"), Pair(A)),
    "at the end of a path": (Select("a", 0, "left"), {"a": [Pair(A, B), C], "b": B}),
    "a tree": (Select("a"), {"a": (A, B), "b": C}),
    "beside integers": (Select(0), (A, labels(4, 3))),
    "a tree with integers and nothing": (Select(1), (B, {"x": A, "lengths": labels(4, 3), "mask": None})),
    "integers beside numbers": (Select(1), (A, labels(4, 3))),
}


@pytest.mark.parametrize(("layer", "x"), TREES.values(), ids=TREES)
def test_a_selected_entry_obeys_the_layer_laws(layer, x):
    check_layer(layer, x)


def test_select_sends_zeros_to_all_other_entries_and_none_to_integers():
    x = {"a": (jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])), "tokens": jnp.array([[7]]), "mask": None}
    y, residuals = Select("a", 1).forward((), x)
    chex.assert_trees_all_equal(y, jnp.array([[3.0]]))
    dx = Select("a", 1).input_gradient((), residuals, jnp.array([[10.0]]))
    chex.assert_trees_all_equal(dx, {"a": (jnp.zeros((1, 2)), jnp.array([[10.0]])), "tokens": None, "mask": None})


def test_selected_integers_have_no_gradient_and_the_numbers_beside_them_one_of_zeros():
    _, residuals = Select(1).forward((), (A, labels(4, 3)))
    chex.assert_trees_all_equal(Select(1).input_gradient((), residuals, None), (jnp.zeros_like(A), None))
    given = Select(1).input_gradient((), residuals, jnp.ones(4))  # what a careless caller may send
    assert given[1] is None


def test_select_is_written_as_it_is_called():
    assert str(Select("a", 0)) == "Select('a', 0)"
    assert Select("a", 0) == Select("a", 0) != Select("a", 1)
    assert hash(Select("a", 0)) == hash(Select("a", 0))


MISSING = {
    "tuple": (Select(2), (A, B), r"an entry 2 in \(.*\), its entries are 0, 1"),
    "from the end": (Select(-1), (A, B), r"an entry -1 in \(.*\), its entries are 0, 1"),
    "dict": (Select("c"), {"a": A, "b": B}, r"an entry 'c' in \{.*\}, its entries are 'a', 'b'"),
    "named tuple": (Select("up"), Pair(A, B), r"an entry 'up' in .*, its entries are 'left', 'right', 0, 1"),
    "name of a tuple's": (Select("count"), (A, B), r"an entry 'count' in .*, its entries are 0, 1"),
    "array": (Select(0), A, r"an entry 0 in float32\[4, 2, 3\], which has no entries"),
    "below an array": (Select("a", 0), {"a": A}, r"an entry 0 in float32\[4, 2, 3\], which has no entries"),
    "nothing": (Select("right"), Pair(A), "expected an array or a tree of arrays there, got NoneType"),
    "no examples": (Select(0), (A, jnp.ones(())), r"expected arrays \[examples, ...\], got .*float32\[\]"),
}


@pytest.mark.parametrize(("layer", "x", "problem"), MISSING.values(), ids=MISSING)
def test_select_names_the_entries_that_are_there(layer, x, problem):
    with pytest.raises(LayerError, match=f'layer "0", Select.*{problem}'):
        Serial(layer).forward(((),), x)


def test_select_needs_a_key():
    with pytest.raises(ValueError, match=r"Select needs the key of an entry, as in Select\(0\)"):
        Select()


SPLITS = {
    "halves": (Split(2), (4, 6)),
    "one part": (Split(1), (4, 3)),
    "sizes": (Split((1, 3, 2)), (4, 6)),
    "of a sequence": (Split(3), (2, 4, 6)),
    "in time": (Split((1, 3), axis=1), (2, 4, 3)),
    "in time, from the end": (Split(2, axis=-2), (2, 4, 3)),
}


@pytest.mark.parametrize(("layer", "shape"), SPLITS.values(), ids=SPLITS)
def test_a_split_obeys_the_layer_laws(layer, shape):
    check_layer(layer, normal(*shape))


def test_split_cuts_and_joins_the_gradients():
    y, residuals = Split((1, 2)).forward((), jnp.array([[1.0, 2.0, 3.0]]))
    chex.assert_trees_all_equal(y, (jnp.array([[1.0]]), jnp.array([[2.0, 3.0]])))
    g = jnp.array([[4.0]]), jnp.array([[5.0, 6.0]])
    chex.assert_trees_all_equal(Split((1, 2)).input_gradient((), residuals, g), jnp.array([[4.0, 5.0, 6.0]]))


def test_split_integers_have_no_gradient():
    y, residuals = Split(2).forward((), labels(4, 3)[:, None] * jnp.ones(2, int))
    assert Split(2).input_gradient((), residuals, y) is None


@pytest.mark.usefixtures("unchecked")
def test_sizes_in_a_list_are_the_same_layer():
    assert Split([2, 1]) == Split((2, 1))
    assert hash(Split([2, 1])) == hash(Split((2, 1)))


def test_split_and_concatenate_undo_each_other():
    x = normal(4, 6)
    parts, _ = Split((1, 2, 3)).forward((), x)
    chex.assert_trees_all_equal(Concatenate().forward((), parts)[0], x)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (0, "number of parts, not 0"),
        ((2, -1), "number of entries, not -1"),
        ((), "at least one part"),
        (1.5, "not 1.5"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_parts_that_cannot_be_are_refused(parts, problem):
    with pytest.raises(ValueError, match=f"Split needs .*{problem}"):
        Split(parts)


def test_split_refuses_sizes_that_do_not_fit():
    with pytest.raises(LayerError, match=r"expected 4 entries on axis -1, got float32\[4, 5\]"):
        Split((1, 3)).forward((), B)
    with pytest.raises(LayerError, match=r"2 equal parts must divide axis -1, got float32\[4, 5\]"):
        Split(2).forward((), B)
