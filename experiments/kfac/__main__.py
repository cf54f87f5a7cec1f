"""K-FAC against Adam and SGD with momentum on MNIST, by step and by second.

Two tasks: the deep autoencoder 784-1000-500-250-30-250-500-1000-784 of Hinton & Salakhutdinov (2006), with tanh units,
a linear code and binary cross-entropy summed over pixels (they: logistic units, pretrained); and a classifier,
784-300-100-10. All begin at the same weights and take the same batches. Adam and SGD have learning rates that fall to
zero along half a cosine. K-FAC chooses step and momentum by its quadratic model, its damping falls geometrically; its
factors are drawn every 5 steps, inverted every 10, and a quarter of the batch tells the model's curvature. It gets a
third of the steps.

    python -m experiments.kfac --tune       tries each optimizer's grid, equally many trials each, an eighth as long

"By second" means steps times seconds per step, the median over cycles of 10 steps with all that belongs to them, the
three optimizers by turns: a machine that others use too slows all three. The loss is compared on the same training
examples, without noise from batches; validation examples are the last of the 60,000, and tests come once, at the end.

Sources: Hinton & Salakhutdinov, Science 313 (2006); Martens & Grosse, arXiv 1503.05671; Kingma & Ba, arXiv 1412.6980.
"""

import enum
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from experiments.kfac.plots import draw_curves, draw_reconstructions
from experiments.kfac.race import Race, run, seconds_per_step, steps_to, tune
from experiments.kfac.tasks import AUTOENCODER, CLASSIFIER, OPTIMIZERS
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import load_mnist


class Choice(enum.Enum):
    """The tasks by the names they have on the command line."""

    autoencoder = AUTOENCODER
    classifier = CLASSIFIER


@dataclass(frozen=True)
class Options:
    """What to learn, and for how long."""

    task: Choice = Choice.autoencoder
    """autoencoder or classifier."""
    steps: int | None = None
    """Of Adam and SGD; K-FAC makes a third of them. The task's unless given."""
    tune: bool = False
    """Whether to try the grids first, rather than to take the settings of the task."""
    measured: int = 2000
    """On how many training examples, and validation examples, losses are measured."""
    rounds: int = 5
    """Cycles of 10 steps that are timed."""
    examples: int | None = None
    """Take only so many of the training examples, and of the test examples."""
    seed: int = 0
    """Of the initial weights, the batches and the factors."""
    output: Path = Path("results/kfac")
    """The folder for the figures and results.json."""


def main(options: Options | None = None) -> dict:
    """Trains with each optimizer, measures, draws; returns the metrics."""
    options = options or Options()
    task, name_of, started = options.task.value, options.task.name, time.perf_counter()
    folder = options.output / name_of
    everything, test = load_mnist()
    kept = len(everything[0]) - options.measured
    data = tuple(jnp.asarray(array[:kept][: options.examples]) for array in everything)
    parts = {
        "data": data,
        "training": tuple(array[: options.measured] for array in data),
        "validation": tuple(array[kept:] for array in everything),
    }
    budget = task.steps if options.steps is None else options.steps
    steps = {"SGD": budget, "Adam": budget, "K-FAC": -(-budget // 3)}

    trials = tune(task, steps, parts, options.seed) if options.tune else {}
    settings = {name: found[0]["setting"] for name, found in trials.items()} or task.settings
    races = {name: Race(task, name, settings[name], steps[name], data, options.seed) for name in OPTIMIZERS}
    curves = {name: run(race, parts) for name, race in races.items()}
    seconds = seconds_per_step(races, options.rounds)

    target = curves["Adam"].training[-1]
    reached = steps_to(curves["K-FAC"], target)
    share = None if reached is None else reached / steps["Adam"]
    test = tuple(array[: options.examples] for array in test)
    on_test = {
        name: jaxbp.evaluate(task.model, task.loss, curve.params, test[0], task.targets(*test))
        for name, curve in curves.items()
    }
    metrics = {
        "task": name_of,
        "seed": options.seed,
        "batch_size": min(task.batch_size, len(data[0])),
        "training_examples": len(data[0]),
        "adam_loss": target,
        "kfac_steps_to_adam_loss": reached,
        "share_of_steps": share,
        "share_of_seconds": None if share is None else share * seconds["K-FAC"] / seconds["Adam"],
        "optimizers": {
            name: {
                "setting": settings[name],
                "milliseconds_per_step": 1000 * seconds[name],
                "test_loss": on_test[name]["loss"],
                "steps": curve.steps,
                "training_loss": curve.training,
                "validation_loss": curve.validation,
            }
            for name, curve in curves.items()
        },
        "trials": trials,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if options.task is Choice.classifier:
        for name, found in on_test.items():
            metrics["optimizers"][name]["test_accuracy"] = found["accuracy"]
        metrics["test_accuracy"] = on_test["K-FAC"]["accuracy"]
    for name, curve in curves.items():
        print(
            f"{name:6} {steps[name]} steps of {1000 * seconds[name]:.0f} ms: loss {curve.training[-1]:.4g}, "
            f"validation {curve.validation[-1]:.4g}, test {on_test[name]['loss']:.4g}"
        )
    if reached is not None:
        print(f"K-FAC has Adam's loss after {reached} steps: {share:.2f} of the steps, ", end="")
        print(f"{metrics['share_of_seconds']:.2f} of the time")

    title = f"MNIST {name_of}, batches of {metrics['batch_size']}"
    save_figure(folder, "curves", draw_curves(curves, seconds, title))
    if options.task is Choice.autoencoder:
        shown = np.concatenate([np.flatnonzero(test[1] == digit)[:1] for digit in range(10)])
        again = {
            name: np.asarray(jax.nn.sigmoid(task.model.forward(curve.params, jnp.asarray(test[0][shown]))[0]))
            for name, curve in curves.items()
        }
        save_figure(folder, "reconstructions", draw_reconstructions(test[0][shown, ..., 0], again))
    print(f"Figures and numbers are in {save_results(folder, metrics).parent}")
    return metrics


if __name__ == "__main__":
    command_line(main, Options)
