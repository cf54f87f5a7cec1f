"""Trained weights in files that anybody can read: the numbers as safetensors, what they belong to as JSON.

The JSON file holds the SHA-256 of every other file, so that what was altered, or comes from elsewhere, is told.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import jaxbp
from experiments.shared.atomic_files import write_atomically
from experiments.shared.datasets import DataError

NUMBERS, CONFIG, SUMS = "weights.safetensors", "config.json", "sha256"
ADVICE = "delete the folder, and the network is trained again"


def save_weights(
    folder: Path,
    params: jaxbp.Params,
    config: Mapping[str, Any],
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Writes each file whole or not at all; the names are the parameters' paths, as in "0.input.weight".

    Args:
        folder: where to.
        params: the weights.
        config: what they belong to, as JSON has it.
        beside: other files that belong to them, by name.
    """
    numbers = {name: np.asarray(array, order="C") for name, array in named(params).items()}
    files = {NUMBERS: safetensors.numpy.save(numbers), **beside}
    for name, content in files.items():
        write_atomically(folder / name, content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_atomically(folder / CONFIG, (json.dumps({**config, SUMS: sums}, indent=2) + "\n").encode())


def load_config(folder: Path) -> dict[str, Any]:
    """What the weights there belong to.

    Raises DataError, in one sentence, where a file is missing, truncated or altered.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        sums = config.pop(SUMS)
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in {NUMBERS, *sums}}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"The weights in {folder} can't be read ({type(error).__name__}): {ADVICE}.") from None
    if found != sums:
        wrong = sorted(name for name in found if found[name] != sums.get(name))
        raise DataError(f"{folder / wrong[0]} is truncated or altered, or of another network than {CONFIG}: {ADVICE}.")
    return config


def load_weights(folder: Path, like: jaxbp.Params, config: Mapping[str, Any]) -> jaxbp.Params:
    """The parameters, with the structure and shapes of `like`.

    Raises DataError, in one sentence, where the files are damaged or belong to another network or front end.
    """
    found = load_config(folder)
    try:
        numbers = safetensors.numpy.load((folder / NUMBERS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"The weights in {folder} can't be read ({type(error).__name__}): {ADVICE}.") from None
    expected = named(like)
    shapes = {name: array.shape for name, array in numbers.items()}
    if found != config or shapes != {name: array.shape for name, array in expected.items()}:
        raise DataError(f"The weights in {folder} belong to another network than this program's: {ADVICE}.")
    return jax.tree.unflatten(jax.tree.structure(like), [numbers[name] for name in expected])


def has_weights(folder: Path) -> bool:
    """Whether weights have been saved there."""
    return (folder / NUMBERS).exists() and (folder / CONFIG).exists()


def named(params: jaxbp.Params) -> dict[str, Any]:
    """The arrays by their paths, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
