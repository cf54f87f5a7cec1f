"""One optimizer at work on a task, measured on the way."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array
from tqdm.auto import tqdm

import jaxbp
from experiments.kfac.tasks import INVERSE_EVERY, OPTIMIZERS, Setting, Task
from experiments.shared.image_training import Examples

FACTORS_EVERY, PART = 5, 4  # steps between two drawings of factors; the batch's part that tells the curvature


class Curve(NamedTuple):
    """What an optimizer did: the steps after which it was measured, losses there, and the parameters at the end."""

    steps: list[int]
    training: list[float]
    validation: list[float]
    params: jaxbp.Params


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
            with_factors = jaxbp.kronecker_factors(task.model, task.loss, jaxbp.MonteCarlo())
            _, gradient, extra["factors"] = with_factors(params, x, targets, key=key)
        else:
            _, gradient = jaxbp.value_and_grad(task.model, task.loss)(params, x, targets)
        if second_order:
            part = -(-len(x) // PART)
            extra["curvature"] = jaxbp.ggn_products(task.model, task.loss, params, x[:part], targets[:part])
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


def measure(task: Task, params: jaxbp.Params, images: Array, labels: Array) -> float:
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
        race.advance(INVERSE_EVERY)
    taken = {name: [] for name in races}
    for _ in range(rounds):
        for name, race in races.items():
            start = time.perf_counter()
            race.advance(INVERSE_EVERY)
            taken[name].append((time.perf_counter() - start) / INVERSE_EVERY)
    return {name: float(np.median(found)) for name, found in taken.items()}


def steps_to(curve: Curve, loss: float) -> int | None:
    """The first measured step at which the training loss is as low; None if it never is."""
    return next((step for step, found in zip(curve.steps, curve.training, strict=True) if found <= loss), None)
