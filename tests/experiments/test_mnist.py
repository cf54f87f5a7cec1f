import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxbp
from experiments.mnist import __main__ as mnist
from experiments.mnist.__main__ import Choice, Options


@pytest.fixture(scope="module", params=[Choice.classic, Choice.convolutional], ids=lambda preset: preset.name)
def run(request, tiny_mnist, tmp_path_factory):
    """Two epochs on a handful of digits, of which `classic` holds none out: the metrics, and where they are."""
    options = Options(
        preset=request.param,
        epochs=2,
        examples=128,
        validation=0 if request.param is Choice.classic else 50,
        output=tmp_path_factory.mktemp("results"),
    )
    return mnist.main(options), options.output / request.param.name


def test_a_run_returns_what_it_writes(run):
    metrics, folder = run
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert metrics["training_examples"] == 128
    assert 0 <= metrics["test_accuracy"] <= 1


def test_a_run_draws_its_figures(run):
    metrics, folder = run
    figures = {"learning_curves", "gradient_flow", "confusion_matrix", "misread_digits", "filters", "saliency"}
    if metrics["preset"] == "convolutional":
        figures |= {"augmentation", "feature_maps"}
    assert {path.stem for path in folder.glob("*.png")} == figures


def test_held_out_examples_are_measured_where_there_are_any(run):
    metrics, _ = run
    measured = {"loss", "seconds"}
    if metrics["preset"] == "convolutional":
        measured |= {"validation_loss", "validation_accuracy"}
    assert set(metrics["history"]) == measured
    assert {len(numbers) for numbers in metrics["history"].values()} == {2}


PARAMETERS = {
    Choice.classic: 784 * 100 + 100 + 100 * 10 + 10,
    Choice.wide: 1_276_810,
    Choice.elastic: 1_276_810,
    Choice.convolutional: (25 * 32 + 9 * 32 * 64 + 9 * 64 * 128)
    + 4 * (32 + 64 + 128 + 256)
    + (3 * 3 * 128 * 256 + 2570),
}


@pytest.mark.parametrize(("preset", "count"), PARAMETERS.items(), ids=lambda entry: str(getattr(entry, "name", entry)))
def test_presets_have_the_parameters_that_their_names_promise(preset, count):
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    shapes = jax.eval_shape(lambda: preset.value.model.init(jax.random.key(0), x))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_without_data_the_command_ends_with_one_sentence(tmp_path):
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / name).write_bytes(b"\x1f\x8b broken")
    run = subprocess.run(
        [sys.executable, "-m", "experiments.mnist", "--output", tmp_path / "out"],
        env={"JAXBP_DATA": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.strip().startswith(f"{tmp_path / 'mnist' / name} is truncated or altered")
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_the_first_weight_is_found_through_nested_layers():
    model = jaxbp.Serial(jaxbp.Flatten(), jaxbp.Serial(jaxbp.ReLU(), jaxbp.Dense(2)), jaxbp.Dense(3))
    params = model.init(jax.random.key(0), jax.numpy.zeros((1, 4)))
    np.testing.assert_array_equal(mnist.first_weight(model, params), params[1][1]["weight"])
