import json
import subprocess
import sys

import jax
import pytest

from experiments import mnist
from experiments.mnist import Choice, Options


@pytest.mark.parametrize("preset", Choice, ids=lambda preset: preset.name)
def test_a_small_run_trains_tests_and_draws(preset, tiny_mnist, tmp_path):
    metrics = mnist.main(Options(preset=preset, epochs=2, validation=50, output=tmp_path))
    assert metrics["test_accuracy"] > 0.3
    assert metrics["training_examples"] == 250
    assert len(metrics["history"]["validation_accuracy"]) == 2
    assert json.loads((tmp_path / preset.name / "results.json").read_text()) == metrics
    assert {path.stem for path in (tmp_path / preset.name).glob("*.png")} == {
        "learning_curves",
        "gradient_flow",
        "confusion_matrix",
        "misread_digits",
        "filters",
    }


def test_all_examples_can_be_trained_on(tiny_mnist, tmp_path):
    metrics = mnist.main(Options(epochs=1, examples=64, validation=0, output=tmp_path))
    assert metrics["training_examples"] == 64
    assert set(metrics["history"]) == {"loss", "seconds"}


@pytest.mark.parametrize(("preset", "count"), [(Choice.classic, 79_510), (Choice.wide, 1_276_810)])
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
    params = mnist.WIDE.model.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
    assert mnist.first_weight(mnist.WIDE.model, params).shape == (784, 800)
