"""Times what the sweep gives beside the gradient, as multiples of the gradient alone.

Every row is a quantity of the network 784-800-800-10 or of `jaxbp.lenet()` on a batch of 128. It is paired with our own
gradient (how many times its cost) and, where autodiff can do it too, with the usual way by jax.grad (how many times
as fast; the memory of both).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import jaxbp
from experiments.benchmarks.engines import Engine, compiled
from experiments.benchmarks.pairwise_timing import header, pair, spread
from experiments.shared.command_line import command_line, save_results
from jaxbp.core.text import table

LOSS = jaxbp.SoftmaxCrossEntropy()
NETWORKS = {
    "784-800-800-10": (
        jaxbp.Serial(jaxbp.Dense(800), jaxbp.ReLU(), jaxbp.Dense(800), jaxbp.ReLU(), jaxbp.Dense(10)),
        (128, 784),
    ),
    "LeNet": (jaxbp.lenet(), (128, 28, 28, 1)),
}


@dataclass(frozen=True)
class QuantityCost:
    """A quantity of a network, beside the gradient alone.

    Args:
        what: the quantity in words.
        network: a name in NETWORKS.
        ours: model -> function (params, x, targets) of what is timed.
        target: the multiple of the gradient's cost that it should stay below; None where none was set.
        theirs: the same by jax.grad.
    """

    what: str
    network: str
    ours: Callable[[jaxbp.Layer], Callable]
    target: float | None = None
    theirs: Callable[[jaxbp.Layer], Callable] | None = None

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.network}: {self.what}"

    def by_jaxbp(self) -> Engine:
        """The quantity from the sweep."""
        return self._engine(self.ours)

    def by_autodiff(self) -> Engine:
        """The quantity by jax.grad."""
        return self._engine(self.theirs)

    def by_gradient(self) -> Engine:
        """The loss and its gradient, and nothing else."""
        return self._engine(lambda model: jaxbp.value_and_grad(model, LOSS))

    def _engine(self, make: Callable[[jaxbp.Layer], Callable]) -> Engine:
        model, shape = NETWORKS[self.network]
        numbers = np.random.default_rng(0)
        x = jax.numpy.asarray(numbers.normal(size=shape), "float32")
        targets = jax.numpy.asarray(numbers.integers(0, 10, shape[0]))
        return compiled(make(model), jax.jit(model.init)(jax.random.key(0), x), x, targets)


def gradient_and_norms(model):
    """The gradient and every example's norm."""
    return jaxbp.value_and_quantities(
        model, LOSS, {"gradient": jaxbp.param_gradient, "norms": jaxbp.per_example_layer_norms}
    )


def norms(model):
    """Every example's norm, without the gradient."""
    return jaxbp.value_and_quantities(model, LOSS, {"norms": jaxbp.per_example_norms})


def norms_by_autodiff(model):
    """The norms of the gradients that jax.grad takes one by one under vmap."""

    def one(params, x, target):
        return LOSS.forward(model.forward(params, x[None])[0], target[None])[0]

    def all_of_them(params, x, targets):
        gradients = jax.vmap(jax.grad(one), (None, 0, 0))(params, x, targets)
        return jax.numpy.sqrt(
            sum(jax.numpy.sum(g * g, range(1, g.ndim)) for g in jax.tree.leaves(gradients)),
        )

    return all_of_them


def clipped(model):
    """Each example's gradient clipped to norm 1, and their mean."""
    return jaxbp.clipped_value_and_grad(model, LOSS, 1.0)


def factors(examples=None):
    """The gradient and Kronecker factors, with one sample of the Fisher's columns."""

    def make(model):
        both = jaxbp.kronecker_factors(model, LOSS, jaxbp.MonteCarlo(), examples=examples)
        return lambda params, x, targets: both(params, x, targets, key=jax.random.key(1))

    return make


def product(operator):
    """A product with a curvature matrix, along the parameters themselves."""
    return lambda model: lambda params, x, targets: operator(model, LOSS, params, x, targets)(params)


def loss_of(model, x, targets):
    """The loss as a function of the parameters."""
    return lambda params: LOSS.forward(model.forward(params, x)[0], targets)[0]


def hessian_by_autodiff(model):
    """Forward over reverse."""

    def run(params, x, targets):
        return jax.jvp(jax.grad(loss_of(model, x, targets)), (params,), (params,))[1]

    return run


def ggn_by_autodiff(model):
    """The outputs' jvp, the loss's Hessian, the outputs' vjp."""

    def run(params, x, targets):
        outputs, pull_back = jax.vjp(lambda params: model.forward(params, x)[0], params)
        moved = jax.jvp(lambda params: model.forward(params, x)[0], (params,), (params,))[1]
        slope = jax.grad(lambda outputs: LOSS.forward(outputs, targets)[0])
        return pull_back(jax.jvp(slope, (outputs,), (moved,))[1])[0]

    return run


MLP, LENET = NETWORKS
QUANTITIES = {
    work.name: work
    for work in [
        QuantityCost("gradient and norms of each example", MLP, gradient_and_norms, 1.15),
        QuantityCost("norms of each example", MLP, norms, None, norms_by_autodiff),
        QuantityCost("clipped gradient", MLP, clipped, 1.6),
        QuantityCost("gradient and Kronecker factors", MLP, factors(), 1.4),
        QuantityCost("the same, factors of 16 examples", MLP, factors(16), 1.4),
        QuantityCost("GGN-vector product", MLP, product(jaxbp.ggn_operator), 1.8, ggn_by_autodiff),
        QuantityCost("Hessian-vector product", MLP, product(jaxbp.hessian_operator), 2.2, hessian_by_autodiff),
        QuantityCost("gradient and norms of each example", LENET, gradient_and_norms, 1.5),
        QuantityCost("norms of each example", LENET, norms, None, norms_by_autodiff),
        QuantityCost("clipped gradient", LENET, clipped, 1.6),
        QuantityCost("GGN-vector product", LENET, product(jaxbp.ggn_operator), 1.8, ggn_by_autodiff),
        QuantityCost("Hessian-vector product", LENET, product(jaxbp.hessian_operator), 2.2, hessian_by_autodiff),
    ]
}


@dataclass(frozen=True)
class Options:
    """What to time, and how long."""

    rows: tuple[str, ...] = tuple(QUANTITIES)
    """Rows of the table."""
    rounds: int = 40
    """Paired samples of each engine, some 40 milliseconds each."""
    output: Path = Path("results/benchmarks_quantities")
    """The folder for results.json."""


def main(options: Options | None = None) -> dict:
    """Measures and prints the table; returns the numbers."""
    options = options or Options()
    results = {"header": header(), "rounds": options.rounds, "rows": []}
    for name in options.rows:
        if name not in QUANTITIES:
            sys.exit(f'there is no row "{name}"; there are {", ".join(QUANTITIES)}')
        work = QUANTITIES[name]
        row = {"row": name, "target": work.target, "gradient": pair(name, "gradient", "jaxbp", options.rounds)}
        if work.theirs:
            row["jax.grad"] = pair(name, "jaxbp", "jax.grad", options.rounds)
        results["rows"].append(row)
        print(f"{name}: done", file=sys.stderr)
    print(f"{results['header']}\n\n{as_table(results['rows'])}")
    save_results(options.output, results)
    return results


def as_table(rows: list[dict]) -> str:
    """A row a quantity."""
    lines = [("quantity", "ms", "times the gradient", "target", "jax.grad / jaxbp", "temp MB", "of jax.grad's")]
    for row in rows:
        found, rival = row["gradient"], row.get("jax.grad")
        memory = rival["temporary_bytes"] if rival else None
        lines.append(
            (
                row["row"],
                f"{found['milliseconds']['jaxbp']:.2f}",
                spread(found),
                f"{row['target']}" if row["target"] else "",
                spread(rival),
                f"{found['temporary_bytes']['jaxbp'] / 1e6:.2f}",
                f"{memory['jaxbp'] / memory['jax.grad']:.4f}" if memory else "",
            )
        )
    return table(lines)


if __name__ == "__main__":
    command_line(main, Options)
