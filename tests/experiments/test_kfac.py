import enum
import itertools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxbp
from experiments.kfac import __main__ as kfac
from experiments.kfac.__main__ import AUTOENCODER, CLASSIFIER, Options, main
from experiments.kfac.plots import draw_reconstructions
from experiments.kfac.race import Curve, Race, batches, run, steps_to
from experiments.kfac.tasks import Task, layers


def small(task, *sizes):
    """The same task with fewer units and two trials for each optimizer."""
    grids = {name: settings[:2] for name, settings in task.grids.items()}
    return replace(task, model=layers(*sizes), grids=grids, batch_size=40)


class Small(enum.Enum):
    """The tasks in small."""

    autoencoder = small(AUTOENCODER, 6, 784)
    classifier = small(CLASSIFIER, 6, 10)


@pytest.fixture(scope="module", params=["autoencoder", "classifier"])
def race(request, tiny_mnist, tmp_path_factory):
    """Some steps of all three; the classifier is tuned before."""
    output = tmp_path_factory.mktemp("kfac")
    tune = request.param == "classifier"
    options = Options(Small[request.param], steps=16, tune=tune, measured=50, rounds=1, output=output)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(kfac, "Choice", Small)
        return main(options), output / request.param


def test_a_race_is_measured_and_written_down(race):
    metrics, folder = race
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert [len(o["steps"]) for o in metrics["optimizers"].values()] == [16, 16, 6]
    assert all(o["milliseconds_per_step"] > 0 for o in metrics["optimizers"].values())
    losses = metrics["optimizers"]["K-FAC"]["training_loss"]
    assert losses[-1] < losses[0]


def test_a_race_is_drawn(race):
    metrics, folder = race
    reconstructed = {"reconstructions"} if metrics["task"] == "autoencoder" else set()
    assert {path.stem for path in folder.glob("*.png")} == {"curves"} | reconstructed


def test_tuning_takes_the_best_of_as_many_trials_for_each(race):
    metrics, _ = race
    if metrics["task"] == "autoencoder":
        assert metrics["trials"] == {}
        return
    assert [len(trials) for trials in metrics["trials"].values()] == [2, 2, 2]
    for name, trials in metrics["trials"].items():
        assert trials[0]["loss"] == min(trial["loss"] for trial in trials)
        assert metrics["optimizers"][name]["setting"] == trials[0]["setting"]


def test_the_grids_are_equally_large_and_hold_the_settings():
    for task in (AUTOENCODER, CLASSIFIER):
        assert {len(settings) for settings in task.grids.values()} == {6}
        assert all(task.settings[name] in settings for name, settings in task.grids.items())


def test_the_autoencoder_is_that_of_hinton_and_salakhutdinov():
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    shapes = jax.eval_shape(lambda: AUTOENCODER.model.init(jax.random.key(0), x))
    sizes = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    assert [p["weight"].shape for p in shapes if p] == list(itertools.pairwise(sizes))
    code = next(i for i, p in enumerate(shapes) if p and p["weight"].shape[1] == 30)
    assert isinstance(AUTOENCODER.model.layers[code + 1], jaxbp.Dense)  # the code is linear


def test_batches_show_every_example_once_an_epoch():
    stream = batches(7, 3, seed=0)
    epoch = np.concatenate([next(stream), next(stream)])
    assert len(set(epoch.tolist())) == 6
    assert not np.array_equal(np.concatenate([next(stream), next(stream)]), epoch)


def test_a_loss_is_reached_at_the_first_step_that_has_it_or_never():
    curve = Curve([10, 20, 30], [3.0, 1.0, 2.0], [], None)
    assert steps_to(curve, 2.0) == 20
    assert steps_to(curve, 0.5) is None


def test_a_run_that_diverges_ends_with_an_infinite_loss(tiny_mnist):
    images = np.random.default_rng(0).random((40, 28, 28, 1), np.float32)
    parts = dict.fromkeys(("data", "training", "validation"), (images, np.zeros(40, np.int32)))
    task: Task = small(AUTOENCODER, 784)
    race = Race(task, "SGD", {"learning_rate": 1e38, "momentum": 0.9}, 8, parts["data"], 0)
    curve = run(race, parts)
    assert curve.training[-1] == float("inf")
    assert len(curve.steps) < 8


def test_reconstructions_stand_under_their_digits():
    digits = np.arange(3)[:, None, None] * np.ones((3, 28, 28))
    figure = draw_reconstructions(digits, {"Adam": digits + 10})
    assert [axes.images[0].get_array()[0, 0] for axes in figure.axes] == [0, 1, 2, 10, 11, 12]
