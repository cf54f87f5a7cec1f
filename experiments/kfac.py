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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm.auto import tqdm

import jaxbp
from experiments.data import load_mnist
from experiments.figures import BLUE, GREEN, GREY, INK, ORANGE, pictures
from experiments.output import command_line, save_figure, save_results
from experiments.training import Examples
from jaxbp.kfac import kfac
from jaxbp.quantities.columns import MonteCarlo
from jaxbp.quantities.curvature import ggn_products
from jaxbp.quantities.kronecker import kronecker_factors

CYCLE, FACTORS_EVERY, PART = 10, 5, 4  # steps between inversions, between factors; the batch's part for the curvature
COLORS = {"SGD": GREEN, "Adam": ORANGE, "K-FAC": BLUE}
Setting = dict[str, float]


def adam(model: jaxbp.Layer, steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def sgd(model: jaxbp.Layer, steps: int, learning_rate: float, momentum: float) -> optax.GradientTransformation:
    """SGD with momentum."""
    return optax.sgd(optax.cosine_decay_schedule(learning_rate, steps), momentum)


def natural(model: jaxbp.Layer, steps: int, damping: float, last_damping: float) -> optax.GradientTransformation:
    """K-FAC without a learning rate, its damping from one value to the other."""
    schedule = optax.exponential_decay(damping, steps, last_damping / damping)
    return kfac(model, None, schedule, inverse_every=CYCLE)


OPTIMIZERS = {"SGD": sgd, "Adam": adam, "K-FAC": natural}


def grid(**values: tuple[float, ...]) -> list[Setting]:
    """Every combination."""
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


@dataclass(frozen=True)
class Task:
    """What is learned, in batches of how many; the settings tried for each optimizer, and the one to take.

    targets: what a batch's images [n, 28, 28, 1] and labels [n] are to become.
    """

    model: jaxbp.Layer
    loss: jaxbp.Loss
    targets: Callable[[Array, Array], Array]
    batch_size: int
    steps: int
    grids: dict[str, list[Setting]]
    settings: dict[str, Setting]


def layers(*sizes: int, linear: tuple[int, ...] = ()) -> jaxbp.Serial:
    """Dense layers with tanh between them, but behind those of a size in `linear`."""
    stages: list[jaxbp.Layer] = [jaxbp.Flatten()]
    for size in sizes[:-1]:
        stages += [jaxbp.Dense(size)] if size in linear else [jaxbp.Dense(size), jaxbp.Tanh()]
    return jaxbp.Serial(*stages, jaxbp.Dense(sizes[-1]))


AUTOENCODER = Task(
    layers(1000, 500, 250, 30, 250, 500, 1000, 784, linear=(30,)),
    jaxbp.BinaryCrossEntropy(),
    lambda images, labels: images.reshape(len(images), -1),
    batch_size=500,
    steps=1000,
    grids={
        "SGD": grid(learning_rate=(3e-4, 1e-3, 3e-3), momentum=(0.9, 0.98)),
        "Adam": grid(learning_rate=(3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 5e-3)),
        "K-FAC": grid(damping=(1.0, 3.0, 10.0), last_damping=(0.03, 0.3)),
    },
    settings={
        "SGD": {"learning_rate": 3e-3, "momentum": 0.9},
        "Adam": {"learning_rate": 1e-3},
        "K-FAC": {"damping": 1.0, "last_damping": 0.03},
    },
)
CLASSIFIER = Task(
    layers(300, 100, 10),
    jaxbp.SoftmaxCrossEntropy(),
    lambda images, labels: labels,
    batch_size=500,
    steps=600,
    grids={
        "SGD": grid(learning_rate=(0.03, 0.1, 0.3), momentum=(0.9, 0.98)),
        "Adam": grid(learning_rate=(6e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
        "K-FAC": grid(damping=(0.1, 0.3, 1.0), last_damping=(0.003, 0.03)),
    },
    settings={  # guesses in the middle of the grids, not tuned yet
        "SGD": {"learning_rate": 0.1, "momentum": 0.9},
        "Adam": {"learning_rate": 3e-3},
        "K-FAC": {"damping": 0.3, "last_damping": 0.03},
    },
)


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


class Curve(NamedTuple):
    """What an optimizer did: the steps after which it was measured, losses there, and the parameters at the end."""

    steps: list[int]
    training: list[float]
    validation: list[float]
    params: jaxbp.layer.Params


class Race:
    """One optimizer at work: a compiled step, the state that it moves, and the batches that it takes."""

    def __init__(self, task: Task, name: str, setting: Setting, steps: int, data: Examples, seed: int):
        self.task, self.name, self.setting, self.steps, self.data, self.seed = task, name, setting, steps, data, seed
        self.optimizer = OPTIMIZERS[name](task.model, steps, **setting)
        self.second_order = name == "K-FAC"
        self.step = make_step(task, self.optimizer, self.second_order)
        self.start()

    def start(self) -> None:
        """Goes back to the start."""
        self.key, self.made = jax.random.key(self.seed), 0
        params = self.task.model.init(self.key, self.data[0][:1])
        self.state = params, self.optimizer.init(params)
        self.batches = batches(len(self.data[0]), min(self.task.batch_size, len(self.data[0])), self.seed)

    def advance(self, steps: int) -> None:
        """Makes so many steps."""
        for _ in range(steps):
            chosen = next(self.batches)
            x, labels = (array[chosen] for array in self.data)
            factors = self.second_order and self.made % FACTORS_EVERY == 0
            self.state = self.step(self.state, x, labels, jax.random.fold_in(self.key, self.made), factors)
            self.made += 1
        jax.block_until_ready(self.state)


def make_step(task: Task, optimizer: optax.GradientTransformationExtraArgs, second_order: bool) -> Callable:
    """A compiled function (state, images, labels, key, whether to draw factors) -> state."""

    @partial(jax.jit, donate_argnums=0, static_argnums=4)
    def step(state, x, labels, key, factors):
        params, optimizer_state = state
        targets, extra = task.targets(x, labels), {}
        if factors:
            with_factors = kronecker_factors(task.model, task.loss, MonteCarlo())
            _, gradient, extra["factors"] = with_factors(params, x, targets, key=key)
        else:
            _, gradient = jaxbp.value_and_grad(task.model, task.loss)(params, x, targets)
        if second_order:
            part = -(-len(x) // PART)
            extra["curvature"] = ggn_products(task.model, task.loss, params, x[:part], targets[:part])
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params, **extra)
        return optax.apply_updates(params, updates), optimizer_state

    return step


def batches(examples: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of one batch after the other, every example once an epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(examples)
        yield from order[: examples - examples % batch_size].reshape(-1, batch_size)


def run(race: Race, parts: dict[str, Examples]) -> Curve:
    """Trains, and measures some 40 times on the way; a run that diverges ends there, with an infinite loss."""
    curve, steps = Curve([], [], [], None), race.steps
    every = max(1, steps // 40)
    described = ", ".join(f"{key} {value:g}" for key, value in race.setting.items())
    bar = tqdm(total=steps, desc=f"{race.name} ({described})", unit="step")
    while race.made < steps:
        race.advance(min(every, steps - race.made))
        found = [measure(race.task, race.state[0], *parts[part]) for part in ("training", "validation")]
        curve.steps.append(race.made)
        for losses, value in zip((curve.training, curve.validation), found, strict=True):
            losses.append(value if np.isfinite(value) else float("inf"))
        bar.update(race.made - bar.n)
        bar.set_postfix(loss=f"{found[0]:.4g}")
        if not np.isfinite(found[0]):
            break
    bar.close()
    return curve._replace(params=race.state[0])


def measure(task: Task, params: jaxbp.layer.Params, images: Array, labels: Array) -> float:
    """The mean loss."""
    return jaxbp.evaluate(task.model, task.loss, params, images, task.targets(images, labels), 2000)["loss"]


def tune(task: Task, steps: dict[str, int], parts: dict[str, Examples], seed: int) -> dict[str, list[dict]]:
    """Every setting of every grid on an eighth of the steps, the best training loss first."""
    trials = {}
    for name, settings in task.grids.items():
        short = max(1, steps[name] // 8)
        races = (Race(task, name, setting, short, parts["data"], seed) for setting in settings)
        found = [{"setting": race.setting, "loss": run(race, parts).training[-1]} for race in races]
        trials[name] = sorted(found, key=lambda trial: trial["loss"])
        print(f"{name}: the best of {len(found)} trials is {trials[name][0]}")
    return trials


def seconds_per_step(races: dict[str, Race], rounds: int) -> dict[str, float]:
    """The median over rounds of cycles from the start, the optimizers by turns."""
    for race in races.values():
        race.start()
        race.advance(CYCLE)
    taken = {name: [] for name in races}
    for _ in range(rounds):
        for name, race in races.items():
            start = time.perf_counter()
            race.advance(CYCLE)
            taken[name].append((time.perf_counter() - start) / CYCLE)
    return {name: float(np.median(found)) for name, found in taken.items()}


def steps_to(curve: Curve, loss: float) -> int | None:
    """The first measured step at which the training loss is as low; None if it never is."""
    return next((step for step, found in zip(curve.steps, curve.training, strict=True) if found <= loss), None)


def draw_curves(curves: dict[str, Curve], seconds: dict[str, float], title: str) -> Figure:
    """Losses by step and by second: training as a line, validation dashed; a ring where K-FAC passes Adam's end."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    target = curves["Adam"].training[-1]
    reached = steps_to(curves["K-FAC"], target)
    for axes, unit, scale in zip(
        figure.subplots(1, 2, sharey=True), ("step", "second"), (dict.fromkeys(curves, 1.0), seconds), strict=True
    ):
        for name, curve in curves.items():
            at = scale[name] * np.array(curve.steps)
            axes.plot(at, curve.training, color=COLORS[name], linewidth=2, label=name)
            axes.plot(at, curve.validation, color=COLORS[name], linewidth=1, linestyle=(0, (4, 2)), alpha=0.7)
        axes.axhline(target, color=INK, linewidth=0.8, linestyle=":")
        if reached is not None:
            place = scale["K-FAC"] * reached
            share = place / (scale["Adam"] * curves["Adam"].steps[-1])
            axes.plot(place, target, "o", markersize=10, markerfacecolor="none", color=INK)
            label = f"K-FAC has Adam's last loss\nafter {place:.3g} {unit}s, {share:.2f} of Adam's"
            arrow = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkB": 6}
            axes.annotate(label, (place, target), (0.36, 0.5), textcoords="axes fraction", arrowprops=arrow, fontsize=9)
        axes.set(xlabel=f"{unit}s", yscale="log", xlim=(0, None))
        axes.grid(color=GREY, alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", title="dashed: validation", frameon=False
    )
    figure.axes[0].set_ylabel("loss (nats per digit)")
    return figure


def draw_reconstructions(images: np.ndarray, by: dict[str, np.ndarray]) -> Figure:
    """Digits [n, 28, 28] and, under them, [n, 784], what each autoencoder makes of its 30 numbers for them."""
    rows = {"digit": images} | {name: shown.reshape(images.shape) for name, shown in by.items()}
    figure = Figure(figsize=(0.85 * len(images) + 0.6, 0.85 * len(rows)), layout="constrained")
    grid = np.array(pictures(figure, len(rows), len(images))).reshape(len(rows), -1)
    for line, (name, shown) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, shown, strict=True):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", color=INK)
    return figure


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
