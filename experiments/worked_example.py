"""Backpropagation worked by hand: one step of a 2-2-1 sigmoid network, every number beside its formula and jax.grad's.

With column vectors, as in textbooks, for one example (x, y):

    z₁ = W₁ x + b₁     a₁ = σ(z₁)     z₂ = W₂ a₁ + b₂     ŷ = σ(z₂)          σ' = σ (1 - σ)

    squared error      E = ½ (ŷ - y)²                         δ₂ = ∂E/∂z₂ = (ŷ - y) ŷ (1 - ŷ)
    cross-entropy      E = -y log ŷ - (1 - y) log(1 - ŷ)      δ₂ = ∂E/∂z₂ = ŷ - y

    δ₁ = ∂E/∂z₁ = W₂ᵀ δ₂ ⊙ a₁ ⊙ (1 - a₁)     ∂E/∂W₂ = δ₂ a₁ᵀ     ∂E/∂b₂ = δ₂     ∂E/∂W₁ = δ₁ xᵀ     ∂E/∂b₁ = δ₁

The numbers come from jaxbp's layers, which take x as a row, so that their weights are the transposes of W₁ and W₂.
The default weights are those of M. Mazur, "A Step by Step Backpropagation Example" (2015), with the first of its two
outputs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxbp
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.plots import BLUE, GREY, INK, ORANGE


@dataclass(frozen=True)
class Options:
    """The network's numbers."""

    x: tuple[float, float] = (0.05, 0.10)
    """The inputs."""
    target: float = 0.01
    """What the network should answer, y, from 0 to 1."""
    w1: tuple[tuple[float, float], tuple[float, float]] = ((0.15, 0.20), (0.25, 0.30))
    """W₁, one row for each hidden unit: from x₁, from x₂."""
    b1: tuple[float, float] = (0.35, 0.35)
    """The hidden biases."""
    w2: tuple[float, float] = (0.40, 0.45)
    """W₂, the output's weights: from the first hidden unit, from the second."""
    b2: float = 0.60
    """The output's bias."""
    learning_rate: float = 0.5
    """η in W ← W - η ∂E/∂W."""
    output: Path = Path("results/worked_example")
    """The folder for the figures and results.json."""


class Case(NamedTuple):
    """One of the two errors: jaxbp's model and loss, and the same error in plain JAX."""

    title: str
    model: jaxbp.Layer
    loss: jaxbp.Loss
    error: Callable
    error_formula: str
    delta_formula: str


CASES = {
    "squared_error": Case(
        "squared error",
        jaxbp.Serial(jaxbp.Dense(2), jaxbp.Sigmoid(), jaxbp.Dense(1), jaxbp.Sigmoid()),
        jaxbp.HalfSquaredError(),
        lambda a, y: jnp.sum((a - y) ** 2) / 2,
        "½ (ŷ - y)²",
        "(ŷ - y) ŷ (1 - ŷ)",
    ),
    "cross_entropy": Case(
        "cross-entropy",
        jaxbp.Serial(jaxbp.Dense(2), jaxbp.Sigmoid(), jaxbp.Dense(1)),  # the loss holds the last sigmoid
        jaxbp.BinaryCrossEntropy(),
        lambda a, y: -jnp.sum(y * jnp.log(a) + (1 - y) * jnp.log1p(-a)),
        "-y log ŷ - (1 - y) log(1 - ŷ)",
        "ŷ - y",
    ),
}

LINES = {  # what is printed: the symbol and, where both errors share it, the formula
    "z1": ("z₁", "W₁ x + b₁"),
    "a1": ("a₁", "σ(z₁)"),
    "z2": ("z₂", "W₂ a₁ + b₂"),
    "a2": ("ŷ", "σ(z₂)"),
    "error": ("E", None),
    "delta2": ("δ₂", None),
    "delta1": ("δ₁", "W₂ᵀ δ₂ ⊙ a₁ ⊙ (1 - a₁)"),
    "gradient_W2": ("∂E/∂W₂", "δ₂ a₁ᵀ"),
    "gradient_b2": ("∂E/∂b₂", "δ₂"),
    "gradient_W1": ("∂E/∂W₁", "δ₁ xᵀ"),
    "gradient_b1": ("∂E/∂b₁", "δ₁"),
    "updated_W2": ("new W₂", "W₂ - η ∂E/∂W₂"),
    "updated_b2": ("new b₂", "b₂ - η ∂E/∂b₂"),
    "updated_W1": ("new W₁", "W₁ - η ∂E/∂W₁"),
    "updated_b1": ("new b₁", "b₁ - η ∂E/∂b₁"),
}


def by_hand(case: Case, theta: dict, x, y, learning_rate: float) -> dict[str, np.ndarray]:
    """Every quantity by jaxbp's hand-written backward pass, in the textbook's orientation."""
    params = [{"weight": theta["W1"].T, "bias": theta["b1"]}, (), {"weight": theta["W2"].T, "bias": theta["b2"]}, ()]
    params = tuple(params[: len(case.model.layers)])
    trace = jaxbp.trace(case.model, case.loss, params, x[None], y[None])
    first, hidden, last = (trace.layers[path] for path in "012")
    found = {
        "z1": first.output,
        "a1": hidden.output,
        "z2": last.output,
        "a2": jax.nn.sigmoid(last.output),
        "error": trace.loss,
        "delta2": last.delta,
        "delta1": first.delta,
        "gradient_W2": last.gradient["weight"].T,
        "gradient_b2": last.gradient["bias"],
        "gradient_W1": first.gradient["weight"].T,
        "gradient_b1": first.gradient["bias"],
    }
    return with_updates(found, theta, learning_rate)


def by_autodiff(case: Case, theta: dict, x, y, learning_rate: float) -> dict[str, np.ndarray]:
    """The same quantities from plain JAX and jax.grad; the deltas are gradients with respect to a shift of z."""

    def error(theta, shift):
        z1 = theta["W1"] @ x + theta["b1"] + shift["delta1"]
        a1 = jax.nn.sigmoid(z1)
        z2 = theta["W2"] @ a1 + theta["b2"] + shift["delta2"]
        a2 = jax.nn.sigmoid(z2)
        return case.error(a2, y), {"z1": z1, "a1": a1, "z2": z2, "a2": a2}

    shift = {"delta1": jnp.zeros(2), "delta2": jnp.zeros(1)}
    (value, found), (gradient, deltas) = jax.value_and_grad(error, argnums=(0, 1), has_aux=True)(theta, shift)
    found |= {"error": value} | deltas | {f"gradient_{name}": array for name, array in gradient.items()}
    return with_updates(found, theta, learning_rate)


def with_updates(found: dict, theta: dict, learning_rate: float) -> dict[str, np.ndarray]:
    """Adds the weights after one step of gradient descent, and flattens everything for the table."""
    updated = {f"updated_{name}": array - learning_rate * found[f"gradient_{name}"] for name, array in theta.items()}
    return {name: np.ravel(array) for name, array in (found | updated).items()}


def table(case: Case, ours: dict, autodiff: dict) -> str:
    """One line a number: symbol, formula, jaxbp's value, jax.grad's, and their difference."""
    formulas = {"error": case.error_formula, "delta2": case.delta_formula}
    head = f"  {'':14}{'formula':30}{'by hand':>15}{'jax.grad':>15}{'difference':>13}"
    lines = [head, "  " + "─" * (len(head) - 2)]
    for name, (symbol, formula) in LINES.items():
        formula = formula or formulas[name]
        for i, (mine, other) in enumerate(zip(ours[name], autodiff[name], strict=True)):
            label = symbol + indices(len(ours[name]))[i]
            lines.append(f"  {label:14}{formula:30}{mine:15.9f}{other:15.9f}{mine - other:13.0e}")
            formula = ""
    return "\n".join(lines)


def indices(size: int) -> list[str]:
    """How the elements of a number, a pair (a vector, or the row W₂) and a 2x2 matrix are named."""
    return {1: [""], 2: ["[1]", "[2]"], 4: ["[1,1]", "[1,2]", "[2,1]", "[2,2]"]}[size]


def draw(case: Case, theta: dict, x, y, found: dict) -> Figure:
    """The network: weights and their gradients on the edges, activations in the nodes, deltas below them."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.6, 7.3), ylim=(-2.05, 1.75), aspect="equal")
    axes.set_axis_off()
    axes.set_title(f"One backward pass, {case.title}: E = {case.error_formula} = {found['error'][0]:.6f}", color=INK)
    inputs, hidden, output = [(0, 1.1), (0, -1.1)], [(3, 1.1), (3, -1.1)], (6, 0)

    def edge(start, end, weight, updated, gradient, along):
        run, rise = np.subtract(end, start)
        place, across = np.add(start, (along * run, along * rise)), np.array([-rise, run]) / np.hypot(run, rise)
        axes.plot(*zip(start, end, strict=True), color=BLUE, alpha=0.5, linewidth=1 + 4 * abs(weight), zorder=1)
        style = {"rotation": np.degrees(np.arctan2(rise, run)), "ha": "center", "va": "center"}
        axes.text(*(place + 0.14 * across), f"{weight:.4g} → {updated:.4g}", color=BLUE, weight="bold", **style)
        axes.text(*(place - 0.14 * across), f"∂ {gradient:.3g}", color=ORANGE, **style)

    def node(place, name, value, bias=None, delta=None):
        left, top = place
        axes.scatter(left, top, s=2900, color="white", edgecolors=INK, linewidths=1.6, zorder=2)
        axes.text(left, top, f"{name}\n{value:.4f}", ha="center", va="center", fontsize=10.5, color=INK, zorder=3)
        if delta is not None:
            axes.text(left, top + 0.34, f"b = {bias:.4g}", ha="center", va="bottom", color=BLUE)
            axes.text(left, top - 0.36, f"δ = {delta:.4g}", ha="center", va="top", color=ORANGE, weight="bold")

    w1, w2, b1, b2 = (theta[name] for name in ("W1", "W2", "b1", "b2"))
    for i, unit in enumerate(hidden):
        for j, start in enumerate(inputs):
            flat = 2 * i + j  # the table's numbers lie row after row
            edge(start, unit, w1[i, j], found["updated_W1"][flat], found["gradient_W1"][flat], along=0.29)
        edge(unit, output, w2[0, i], found["updated_W2"][i], found["gradient_W2"][i], along=0.5)
        node(inputs[i], ("x₁", "x₂")[i], x[i])
        node(unit, f"a₁[{i + 1}]", found["a1"][i], b1[i], found["delta1"][i])
    node(output, "ŷ", found["a2"][0], b2[0], found["delta2"][0])
    axes.annotate("", (6.85, 0), (6.35, 0), arrowprops={"arrowstyle": "-|>", "color": GREY})
    axes.text(6.9, 0, f"target\ny = {y[0]:.4g}", va="center", fontsize=11, color=INK)
    axes.text(-0.4, -1.98, "blue: biases b, and weights before → after the step", color=BLUE, fontsize=9.5)
    axes.text(3.0, -1.98, "orange: ∂ is ∂E/∂w of an edge, δ is ∂E/∂z = ∂E/∂b of a node", color=ORANGE, fontsize=9.5)
    return figure


def main(options: Options | None = None) -> dict:
    """Prints, draws and returns every number of both cases."""
    options = options or Options()
    results = {}
    with jax.enable_x64(True):
        x, y = jnp.array(options.x, float), jnp.array([options.target], float)
        theta = {
            "W1": jnp.array(options.w1, float),
            "b1": jnp.array(options.b1, float),
            "W2": jnp.array([options.w2], float),
            "b2": jnp.array([options.b2], float),
        }
        for name, case in CASES.items():
            ours = by_hand(case, theta, x, y, options.learning_rate)
            autodiff = by_autodiff(case, theta, x, y, options.learning_rate)
            print(
                f"\nThe 2-2-1 sigmoid network, {case.title}: x = {options.x}, y = {options.target}, "
                f"η = {options.learning_rate}\n\n{table(case, ours, autodiff)}"
            )
            figure = save_figure(options.output, name, draw(case, theta, x, y, ours))
            print(f"\n  drawn in {figure}")
            difference = max(float(np.abs(ours[line] - autodiff[line]).max()) for line in LINES)
            results[name] = {line: ours[line].tolist() for line in LINES} | {"largest_difference": difference}
    save_results(options.output, results)
    return results


if __name__ == "__main__":
    command_line(main, Options)
