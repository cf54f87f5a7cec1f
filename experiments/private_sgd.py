"""MNIST learned in private: DP-SGD from clipped per-example gradients, what it spends and what it reaches.

    each example joins a step with probability q                              Poisson sampling
    ḡ = 1/(qN) (Σ_n min(1, C / ‖G_n‖) G_n + σ C ξ),   ξ ~ N(0, 1)             one forward pass, one sweep
    W ← W - η v,   v ← μ v + ḡ

Whoever sees all the weights along the way learns of any one example no more than (ε, δ) allows. Google's dp-accounting
finds the noise σ for the ε that is asked for, and says what is spent after every epoch (privacy loss distributions).

The network has tanh and few parameters, as Papernot et al. advise, who report 98.1 % at ε = 2.93, δ = 1e-5.

What is not private here: the choice of settings, the pictured norms, the validation; and JAX's and NumPy's random
numbers are no cryptographic ones.

Sources: Abadi et al., arXiv 1607.00133; Papernot et al., arXiv 2007.14191.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from tqdm.auto import tqdm

import jaxbp
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import load_mnist
from experiments.shared.image_training import Examples
from experiments.shared.plots import BLUE, GREEN, GREY, INK, ORANGE
from jaxbp.quantities.clipping import clipped_value_and_grad

try:
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant
except ImportError as error:
    raise ImportError('privacy is accounted for by Google\'s dp-accounting: pip install "jaxbp[privacy]"') from error

MODEL = jaxbp.Serial(
    jaxbp.Conv(16, (8, 8), stride=2),
    jaxbp.Tanh(),
    jaxbp.MaxPool((2, 2)),
    jaxbp.Conv(32, (4, 4)),
    jaxbp.Tanh(),
    jaxbp.MaxPool((2, 2)),
    jaxbp.Flatten(),
    jaxbp.Dense(32),
    jaxbp.Tanh(),
    jaxbp.Dense(10),
)
LOSS = jaxbp.SoftmaxCrossEntropy()
PAD = 256  # batches are filled up to a multiple of it: few shapes to compile, and none is ever cut


@dataclass(frozen=True)
class Options:
    """How private, and how to train."""

    epsilon: float = 3.0
    """The budget of privacy, ε."""
    compare: tuple[float, ...] = (1.0, 8.0)
    """Other budgets to train for, for the figure."""
    delta: float = 1e-5
    """The δ of every budget: less than one over the number of examples."""
    epochs: int = 15
    """How often every example joins, on average."""
    batch_size: int = 1000
    """How many examples join a step, on average."""
    limit: float = 1.0
    """C: no example's gradient is longer."""
    learning_rate: float = 0.5
    """η, falling to zero along half a cosine."""
    momentum: float = 0.9
    """μ."""
    validation: int = 2000
    """Training examples, the last ones, that are held out for the curves."""
    examples: int | None = None
    """Take only so many of the training examples, and of the test examples."""
    seed: int = 0
    """Of the initial weights, the sampling and the noise."""
    output: Path = Path("results/private_sgd")
    """The folder for the figures and results.json."""


class Spending(NamedTuple):
    """One private training: σ, the steps, ε spent and validation accuracy after each epoch, the parameters, and the
    norms ‖G_n‖ of the examples of some steps, by step."""

    noise: float
    steps: int
    epsilons: list[float]
    accuracies: list[float]
    params: jaxbp.Params
    norms: dict[int, np.ndarray]


def event(probability: float, noise: float) -> dp.DpEvent:
    """One step in the accountant's words."""
    return dp.PoissonSampledDpEvent(probability, dp.GaussianDpEvent(noise))


def accountant() -> PLDAccountant:
    """Privacy loss distributions on a grid ten times coarser, and ten times faster, than the default: still an upper
    bound, higher by less than a thousandth."""
    return PLDAccountant(value_discretization_interval=1e-3)


def noise_for(epsilon: float, delta: float, probability: float, steps: int) -> float:
    """The least σ with which so many steps cost no more than (ε, δ)."""
    return dp.calibrate_dp_mechanism(
        accountant,
        lambda noise: dp.SelfComposedDpEvent(event(probability, noise), steps),
        epsilon,
        delta,
        dp.LowerEndpointAndGuess(0.3, 1.0),
        tol=1e-3,
    )


def spent(noise: float, delta: float, probability: float, steps: int) -> float:
    """The ε of so many steps."""
    return accountant().compose(event(probability, noise), steps).get_epsilon(delta)


def poisson_batches(
    data: Examples, probability: float, steps: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, labels and weights: each example is drawn or not, by itself; the rest of a batch has weight zero."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = np.flatnonzero(rng.random(len(data[0])) < probability)
        size = max(1, -(-len(chosen) // PAD)) * PAD
        padded = np.zeros(size, int)
        padded[: len(chosen)] = chosen
        yield data[0][padded], data[1][padded], (np.arange(size) < len(chosen)).astype(np.float32)


def train(options: Options, data: Examples, validation: Examples, epsilon: float, moments: int = 7) -> Spending:
    """Trains until ε is spent."""
    probability = options.batch_size / len(data[0])
    per_epoch = -(-len(data[0]) // options.batch_size)
    steps = options.epochs * per_epoch
    noise = noise_for(epsilon, options.delta, probability, steps)
    optimizer = optax.sgd(optax.cosine_decay_schedule(options.learning_rate, steps), options.momentum)
    private_gradient = clipped_value_and_grad(MODEL, LOSS, options.limit, noise, float(options.batch_size))

    @partial(jax.jit, donate_argnums=0)
    def step(state, x, targets, weights, key):
        params, optimizer_state = state
        _, gradient, norms = private_gradient(params, x, targets, weights=weights, noise_key=key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), norms

    start, key = jax.random.split(jax.random.key(options.seed))
    params = MODEL.init(start, data[0][:1])
    state, spending = (params, optimizer.init(params)), Spending(noise, steps, [], [], None, {})
    watched = set(np.linspace(0, steps - 1, moments, dtype=int).tolist())
    batches = poisson_batches(data, probability, steps, options.seed)
    for i, (x, targets, weights) in enumerate(tqdm(batches, f"training, ε = {epsilon:g}", steps, unit="step")):
        state, norms = step(state, x, targets, weights, jax.random.fold_in(key, i))
        if i in watched:
            spending.norms[i + 1] = np.asarray(norms)[weights > 0]
        if (i + 1) % per_epoch == 0:
            measured = jaxbp.evaluate(MODEL, LOSS, state[0], *validation)
            spending.accuracies.append(measured["accuracy"])
            spending.epsilons.append(spent(noise, options.delta, probability, i + 1))
    return spending._replace(params=state[0])


def draw_spending(runs: dict[float, Spending], test: dict[float, float], delta: float) -> Figure:
    """Accuracy against ε along each training, and what each reaches in the end."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for (epsilon, run), color in zip(sorted(runs.items()), [ORANGE, BLUE, GREEN, INK], strict=False):
        errors = [100 * accuracy for accuracy in run.accuracies]
        label = f"ε = {epsilon:g}, σ = {run.noise:.2f}: test {test[epsilon]:.2%}"
        axes.plot(run.epsilons, errors, color=color, linewidth=1.8, marker=".", markersize=5, label=label)
        axes.plot(epsilon, 100 * test[epsilon], marker="*", markersize=13, color=color, clip_on=False, zorder=3)
    best = max(max(run.accuracies) for run in runs.values())
    axes.set(xlabel=f"privacy spent, ε at δ = {delta:g}", ylabel="validation accuracy (%)")
    axes.set_ylim(max(0.0, 100 * best - 12), min(100.0, 100 * best + 1))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 8)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("What privacy costs on MNIST: epoch by epoch, and on the test set (stars)", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_norms(norms: dict[int, np.ndarray], limit: float) -> Figure:
    """Histograms of ‖G_n‖ over the training, one above the other, and the limit they are clipped at."""
    figure = Figure(figsize=(7, 0.8 * len(norms) + 1), layout="constrained")
    panels = figure.subplots(len(norms), 1, sharex=True, squeeze=False)[:, 0]
    everything = np.concatenate(list(norms.values()))
    low, high = np.log10([max(everything.min() / limit, 1e-4), max(everything.max() / limit, 2)])
    bins = limit * 10 ** (np.arange(np.floor(20 * low), np.ceil(20 * high) + 1) / 20)  # with one edge at the limit
    for axes, (step, found) in zip(panels, norms.items(), strict=True):
        counts, _ = np.histogram(np.clip(found, bins[0], bins[-1]), bins)
        clipped = bins[:-1] >= limit
        widths = np.diff(bins)
        axes.bar(bins[:-1], counts, widths, align="edge", color=np.where(clipped, ORANGE, BLUE))
        axes.axvline(limit, color=INK, linewidth=1.2)
        axes.set(xscale="log", yticks=[], xlim=(bins[0], bins[-1]))
        axes.text(0.99, 0.72, f"step {step}", transform=axes.transAxes, color=INK, fontsize=9, ha="right")
        share = f"{(found > limit).mean():.0%} clipped"
        axes.text(0.99, 0.44, share, transform=axes.transAxes, color=ORANGE, fontsize=9, ha="right")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("norm of an example's gradient, ‖Gₙ‖")
    panels[0].set_title(f"Per-example gradients, and the limit C = {limit:g}", fontsize=11)
    return figure


def main(options: Options | None = None) -> dict:
    """Trains once for each budget, tests, draws; returns the metrics."""
    options = options or Options()
    started = time.perf_counter()
    everything, test = load_mnist()
    kept = len(everything[0]) - options.validation
    data = tuple(array[:kept][: options.examples] for array in everything)
    validation = tuple(array[kept:] for array in everything)
    test = tuple(array[: options.examples] for array in test)
    if not 0 < options.batch_size <= len(data[0]):
        raise ValueError(f"expected a batch size from 1 to {len(data[0])} examples, not {options.batch_size}")

    runs = {epsilon: train(options, data, validation, epsilon) for epsilon in (options.epsilon, *options.compare)}
    reached = {epsilon: jaxbp.evaluate(MODEL, LOSS, run.params, *test)["accuracy"] for epsilon, run in runs.items()}
    for epsilon, run in runs.items():
        print(f"ε = {run.epsilons[-1]:.3f}, σ = {run.noise:.3f}: test accuracy {reached[epsilon]:.4f}")

    save_figure(options.output, "accuracy_by_epsilon", draw_spending(runs, reached, options.delta))
    save_figure(options.output, "norms", draw_norms(runs[options.epsilon].norms, options.limit))
    metrics = {
        "test_accuracy": reached[options.epsilon],
        "epsilon": runs[options.epsilon].epsilons[-1],
        "delta": options.delta,
        "seed": options.seed,
        "training_examples": len(data[0]),
        "steps": runs[options.epsilon].steps,
        "runs": [
            {
                "budget": epsilon,
                "noise_multiplier": run.noise,
                "epsilon": run.epsilons,
                "validation_accuracy": run.accuracies,
                "test_accuracy": reached[epsilon],
                "clipped": {str(step): float((found > options.limit).mean()) for step, found in run.norms.items()},
            }
            for epsilon, run in runs.items()
        ],
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(f"Figures and numbers are in {save_results(options.output, metrics).parent}")
    return metrics


if __name__ == "__main__":
    command_line(main, Options)
