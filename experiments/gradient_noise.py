"""What the sizes of single examples' gradients tell: which digits are hard or mislabelled, and how large a batch pays.

A small share of MNIST's training labels is replaced by wrong ones, drawn at random. A network is trained on them for a
few epochs, and all training examples are ranked by ‖G_n‖, the norm of the gradient of their own loss, which one sweep
gives without forming any G_n; the mean over the epochs' ends counts. What contradicts the rest pulls hard. So does what
is merely difficult, for ‖p - y‖ is no larger than √2 however sure the mistake: a ranking by the loss, which is drawn
beside it, tells the two apart better.

On the way the gradient noise scale is measured, tr Σ / ‖G‖², Σ the covariance of the G_n and G their mean: below that
batch size noise rules the step, above it larger batches bring little. It grows as the loss falls.

Sources: Paul et al., arXiv 2107.07075 (the norm as a score); McCandlish et al., arXiv 1812.06162 (noise scale).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve
from tqdm.auto import tqdm

import jaxbp
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import load_mnist
from experiments.shared.image_training import Examples
from experiments.shared.plots import BLUE, GREY, INK, ORANGE, pictures
from jaxbp.quantities.gradient_statistics import NoiseScale, noise_scale

MODEL = jaxbp.Serial(
    jaxbp.Flatten(),
    jaxbp.Dense(300, initializer=jaxbp.He()),
    jaxbp.ReLU(),
    jaxbp.Dense(100, initializer=jaxbp.He()),
    jaxbp.ReLU(),
    jaxbp.Dense(10),
)
LOSS = jaxbp.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Options:
    """What to spoil, and how to train."""

    flipped: float = 0.01
    """The share of the training labels that is replaced by wrong ones."""
    epochs: int = 6
    """How often every training example is seen."""
    batch_size: int = 128
    """Examples a step."""
    learning_rate: float = 1e-3
    """Adam's."""
    moments: int = 80
    """How often the noise scale is measured, at steps that lie ever farther apart."""
    measured: int = 5000
    """On how many training examples."""
    examples: int | None = None
    """Take only so many of the training examples, and of the test examples."""
    seed: int = 0
    """Of the wrong labels, the initial weights and the order of the examples."""
    output: Path = Path("results/gradient_noise")
    """The folder for the figures and results.json."""


def flip(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The labels [n], a share of them replaced by another digit, any one as likely as the next."""
    chosen = rng.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[chosen] = (labels[chosen] + rng.integers(1, 10, len(chosen))) % 10
    return given


@jax.jit
def scores(params, x, targets):
    """‖G_n‖ and the loss of each example, [n] both."""
    _, found = jaxbp.value_and_quantities(MODEL, LOSS, {"norms": jaxbp.per_example_norms})(params, x, targets)
    return found["norms"], LOSS.per_example(MODEL.forward(params, x)[0], targets)[0]


@jax.jit
def measure(params, x, targets) -> NoiseScale:
    """The gradient noise scale, and what it is made of."""
    return jaxbp.value_and_quantities(MODEL, LOSS, {"scale": noise_scale})(params, x, targets)[1]["scale"]


class Trained(NamedTuple):
    """The parameters, the noise scale by step, and every example's ‖G_n‖ and loss, means over the epochs' ends."""

    params: jaxbp.Params
    scales: dict[int, NoiseScale]
    norms: np.ndarray
    losses: np.ndarray


def train(options: Options, data: Examples) -> Trained:
    """Adam on the data; the noise scale is measured at some steps, the examples after each epoch."""
    optimizer = optax.adam(options.learning_rate)
    step = jaxbp.make_train_step(MODEL, LOSS, optimizer)
    state = jaxbp.TrainState.create(MODEL, optimizer, data[0][:1], jax.random.key(options.seed))
    rng = np.random.default_rng(options.seed)
    per_epoch = len(data[0]) // options.batch_size
    steps = options.epochs * per_epoch
    moments = set(np.geomspace(1, steps, options.moments, dtype=int).tolist())
    few = tuple(array[: options.measured] for array in data)
    scales, ranked = {0: measure(state.params, *few)}, []
    bar = tqdm(total=steps, desc="training", unit="step")
    for epoch in range(options.epochs):
        order = rng.permutation(len(data[0]))[: per_epoch * options.batch_size].reshape(per_epoch, -1)
        for i, chosen in enumerate(order, epoch * per_epoch + 1):
            state, _ = step(state, data[0][chosen], data[1][chosen])
            if i in moments:
                scales[i] = measure(state.params, *few)
            bar.update()
        ranked.append(rank(state.params, data))
    bar.close()
    return Trained(state.params, scales, *np.mean(ranked, 0))


def rank(params: jaxbp.Params, data: Examples, batch_size: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """‖G_n‖ and loss of every example."""
    parts = [scores(params, *(array[i : i + batch_size] for array in data)) for i in range(0, len(data[0]), batch_size)]
    sizes, losses = zip(*parts, strict=True)
    return np.concatenate(sizes), np.concatenate(losses)


def draw_found(wrong: np.ndarray, by: dict[str, np.ndarray]) -> Figure:
    """Precision against recall of the wrong labels, for each score, as more of the ranking is looked through."""
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, score), color in zip(by.items(), (BLUE, ORANGE), strict=True):
        precision, recall, _ = precision_recall_curve(wrong, score)
        label = f"by {name}: average precision {average_precision_score(wrong, score):.3f}"
        axes.plot(100 * recall, 100 * precision, color=color, linewidth=1.8, label=label)
    axes.set(xlabel="wrong labels found (recall, %)", ylabel="wrong labels among those looked at (precision, %)")
    axes.set(xlim=(0, 101), ylim=(0, 101))
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{wrong.sum()} wrong labels among {len(wrong)}", fontsize=11)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_digits(
    images: np.ndarray, given: np.ndarray, true: np.ndarray, chosen: Sequence[int], title: str, columns: int = 12
) -> Figure:
    """Digits with the label they were given and, where it was replaced, the true one in orange."""
    rows = max(1, -(-len(chosen) // columns))
    figure = Figure(figsize=(0.95 * columns, 1.25 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, i in zip(pictures(figure, rows, columns), chosen, strict=False):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=1)
        replaced = given[i] != true[i]
        caption = f"“{given[i]}”, was {true[i]}" if replaced else f"“{given[i]}”"
        axes.set_title(caption, fontsize=9, color=ORANGE if replaced else INK)
    return figure


def draw_scales(scales: dict[int, NoiseScale], batch_size: int, window: int = 9) -> Figure:
    """Noise and signal by step on the left, their ratio on the right; lines are means over some moments, as the two are
    better averaged before they are divided."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.maximum(list(scales), 0.7)  # the start, on a logarithmic axis
    noise, signal, scale = np.array(list(scales.values())).T
    smooth_noise, smooth_signal = smooth(noise, window), smooth(signal, window)

    def draw(axes, points, line, color, label):
        axes.plot(steps, points, ".", color=color, alpha=0.35, markersize=5)
        axes.plot(steps, line, color=color, linewidth=1.8, label=label)

    draw(left, noise, smooth_noise, ORANGE, "noise, tr Σ")
    draw(left, signal, smooth_signal, BLUE, "signal, ‖G‖²")
    draw(right, scale, smooth_noise / smooth_signal, INK, "noise scale, tr Σ / ‖G‖²")
    right.axhline(batch_size, color=GREY, linestyle="--", label=f"the batch size, {batch_size}")
    right.set_ylabel("examples")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="step")
        axes.grid(color=GREY, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle("How much the examples agree, over the training", fontsize=11)
    return figure


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Means over a window (odd) of neighbours, fewer at the ends."""
    half = window // 2
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def main(options: Options | None = None) -> dict:
    """Spoils, trains, ranks, draws; returns the metrics."""
    options = options or Options()
    started = time.perf_counter()
    (images, true), test = load_mnist()
    images, true = images[: options.examples], true[: options.examples]
    test = tuple(array[: options.examples] for array in test)
    if not 0.5 <= options.flipped * len(true) <= len(true):
        raise ValueError(
            f"of {len(true)} labels a share of {options.flipped} can't be replaced: at least one, at most all"
        )
    given = flip(true, options.flipped, np.random.default_rng(options.seed))
    wrong = given != true
    trained = train(options, (images, given))
    accuracy = jaxbp.evaluate(MODEL, LOSS, trained.params, *test)["accuracy"]

    sizes, losses = trained.norms, trained.losses
    order = np.argsort(-sizes)
    count = int(wrong.sum())
    found = {k: int(wrong[order[:k]].sum()) for k in (-(-count // 2), count, 2 * count)}
    for k, hits in found.items():
        print(f"Of the {k} largest gradients {hits} belong to the {count} wrong labels")
    print(f"Test accuracy: {accuracy:.4f}")

    digits, folder = images[..., 0], options.output
    save_figure(folder, "found", draw_found(wrong, {"gradient norm": sizes, "loss": losses}))
    title = "The largest gradients: labels as given, those that had been replaced in orange"
    save_figure(folder, "largest_gradients", draw_digits(digits, given, true, order[:60], title))
    title = "The largest gradients among labels nobody touched: MNIST's hardest digits, and its own mistakes"
    save_figure(folder, "hardest", draw_digits(digits, given, true, order[~wrong[order]][:60], title))
    save_figure(folder, "noise_scale", draw_scales(trained.scales, options.batch_size))
    metrics = {
        "test_accuracy": accuracy,
        "wrong_labels": count,
        "found": [
            {"looked_at": k, "wrong": hits, "precision": hits / k, "recall": hits / count} for k, hits in found.items()
        ],
        "average_precision": float(average_precision_score(wrong, sizes)),
        "average_precision_by_loss": float(average_precision_score(wrong, losses)),
        "noise_scale": {str(step): float(s.scale) for step, s in trained.scales.items()},
        "epochs": options.epochs,
        "seed": options.seed,
        "training_examples": len(images),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(f"Figures and numbers are in {save_results(folder, metrics).parent}")
    return metrics


if __name__ == "__main__":
    command_line(main, Options)
