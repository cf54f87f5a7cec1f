"""Trained weights in two files that anybody can read: the numbers as safetensors, what they belong to as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import jaxbp
from experiments.data import DataError
from experiments.files import write_atomically

NUMBERS, CONFIG = "weights.safetensors", "config.json"


def save_weights(folder: Path, params: jaxbp.layer.Params, config: Mapping[str, Any]) -> None:
    """Writes both files, each whole or not at all; the names are the parameters' paths, as in "0.input.weight"."""
    numbers = {name: np.asarray(array, order="C") for name, array in named(params).items()}
    write_atomically(folder / NUMBERS, safetensors.numpy.save(numbers))
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_weights(folder: Path, like: jaxbp.layer.Params, config: Mapping[str, Any]) -> jaxbp.layer.Params:
    """The parameters, with the structure and shapes of `like`.

    Raises DataError, in one sentence, where the files are damaged or belong to another network or front end.
    """
    advice = "delete the folder, and the network is trained again"
    try:
        found = json.loads((folder / CONFIG).read_text())
        numbers = safetensors.numpy.load((folder / NUMBERS).read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, SafetensorError) as error:
        raise DataError(f"The weights in {folder} can't be read ({type(error).__name__}): {advice}.") from None
    expected = named(like)
    shapes = {name: array.shape for name, array in numbers.items()}
    if found != config or shapes != {name: array.shape for name, array in expected.items()}:
        raise DataError(f"The weights in {folder} belong to another network than this program's: {advice}.")
    return jax.tree.unflatten(jax.tree.structure(like), [numbers[name] for name in expected])


def has_weights(folder: Path) -> bool:
    """Whether weights have been saved there."""
    return (folder / NUMBERS).exists() and (folder / CONFIG).exists()


def named(params: jaxbp.layer.Params) -> dict[str, Any]:
    """The arrays by their paths, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
