import json

import jax
import numpy as np
import pytest

from experiments.shared.datasets import DataError
from experiments.shared.weights import has_weights, load_weights, save_weights

PARAMS = ({"weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)}, (), {"scale": 1})
PARAMS = jax.tree.map(np.asarray, PARAMS)
CONFIG = {"model": "Dense(3)"}


def test_weights_come_back_as_they_were(tmp_path):
    assert not has_weights(tmp_path)
    save_weights(tmp_path, PARAMS, CONFIG)
    assert has_weights(tmp_path)
    loaded = load_weights(tmp_path, jax.eval_shape(lambda: PARAMS), CONFIG)
    assert jax.tree.structure(loaded) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, loaded, PARAMS)


def test_weights_are_read_by_their_names(tmp_path):
    save_weights(tmp_path, PARAMS, CONFIG)
    content = (tmp_path / "weights.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) == {"0.bias", "0.weight", "2.scale"}


def broken(folder, what):
    weights, config = folder / "weights.safetensors", folder / "config.json"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif what == "garbage":
        weights.write_bytes(b"\x80\x04pickle")
    elif what == "no_json":
        config.write_text("{")
    elif what == "missing":
        weights.unlink()
    elif what == "other_config":
        save_weights(folder, PARAMS, {"model": "Dense(4)"})
    elif what == "no_sums":
        config.write_text('{"model": "Dense(3)"}')
    elif what == "altered":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif what == "other_weights":
        save_weights(folder / "other", jax.tree.map(lambda a: a + 1, PARAMS), CONFIG)
        weights.write_bytes((folder / "other" / "weights.safetensors").read_bytes())
    elif what == "beside":
        (folder / "words.txt").write_text("altered")


@pytest.mark.parametrize(
    "what",
    ["truncated", "garbage", "no_json", "missing", "other_config", "no_sums", "altered", "other_weights", "beside"],
)
def test_weights_that_do_not_fit_are_refused_in_one_sentence(what, tmp_path):
    save_weights(tmp_path, PARAMS, CONFIG, {"words.txt": b"one two"})
    broken(tmp_path, what)
    with pytest.raises(DataError, match="delete the folder") as raised:
        load_weights(tmp_path, PARAMS, CONFIG)
    assert str(tmp_path) in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_weights_of_other_shapes_are_refused(tmp_path):
    save_weights(tmp_path, PARAMS, CONFIG)
    other = ({**PARAMS[0], "bias": np.zeros(4, np.float32)}, *PARAMS[1:])
    with pytest.raises(DataError, match="another network"):
        load_weights(tmp_path, other, CONFIG)
