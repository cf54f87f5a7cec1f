"""What recurrent networks remember: adding and copying over longer and longer sequences, by RNN, GRU and LSTM.

Adding: two numbers of a long sequence are marked, one in each half; the answer is their sum. Who answers 1 without
listening has a mean squared error of 1/6. Copying: some symbols, a long nothing, and a sign to say the symbols again.
Both ask for a gradient that comes back over the whole length; the figure shows how much of it is left.

Sources: Hochreiter & Schmidhuber, Neural Computation 9 (1997), for the problems; Tallec & Ollivier, Can Recurrent
Neural Networks Warp Time? (2018), arXiv 1804.11188, for the initial biases of the gates.
"""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

import jaxbp
from experiments.memory.plots import gradient_by_distance, score_by_length
from experiments.shared.command_line import command_line, save_figure, save_results
from jaxbp.training.step import update

SYMBOLS = 8
NOTHING, SAY_IT = 0, SYMBOLS + 1  # beside the symbols 1 to 8
UNASKED = -1


@dataclass(frozen=True)
class Problem:
    """A task of any length.

    draw: (key, examples, length) -> inputs [n, t, features] and targets.
    loss: what is minimised.
    score: what is reported, and in words; "lower" or "higher" is better.
    chance: the score of somebody who doesn't listen.
    solved: a better score than this one counts as solved.
    """

    draw: Callable
    loss: jaxbp.Loss
    outputs: int
    last: bool
    score: str
    chance: float
    solved: float

    def model(self, cell: type[jaxbp.Layer], hidden: int) -> jaxbp.Serial:
        """One recurrent layer and one dense layer."""
        return jaxbp.Serial(cell(hidden, last=self.last), jaxbp.Dense(self.outputs))

    def is_solved(self, score: float) -> bool:
        """Whether the score is on the good side."""
        return score < self.solved if self.solved < self.chance else score > self.solved


@partial(jax.jit, static_argnums=(1, 2))
def draw_adding(key: PRNGKeyArray, n: int, length: int) -> tuple[Float[Array, "n t 2"], Float[Array, "n 1"]]:
    """Numbers from 0 to 1 beside their marks, and the sum of the marked two."""
    numbers, first, second = jax.random.split(key, 3)
    numbers, half = jax.random.uniform(numbers, (n, length)), length // 2
    marked = jax.nn.one_hot(jax.random.randint(first, n, 0, half), length)
    marked += jax.nn.one_hot(jax.random.randint(second, n, half, length), length)
    return jnp.stack([numbers, marked], -1), jnp.sum(numbers * marked, 1, keepdims=True)


@partial(jax.jit, static_argnums=(1, 2, 3))
def draw_copying(key: PRNGKeyArray, n: int, length: int, count: int = 5):
    """`count` symbols, nothing for `length` times, the sign, nothing; asked for are the symbols at the last times."""
    symbols = jax.random.randint(key, (n, count), 1, SYMBOLS + 1)
    blank = lambda times: jnp.full((n, times), NOTHING)  # noqa: E731
    seen = jnp.concatenate([symbols, blank(length), jnp.full((n, 1), SAY_IT), blank(count - 1)], 1)
    asked = jnp.concatenate([jnp.full((n, length + count), UNASKED), symbols - 1], 1)
    return jax.nn.one_hot(seen, SYMBOLS + 2), asked


ADDING = Problem(draw_adding, jaxbp.MeanSquaredError(), 1, True, "mean squared error", 1 / 6, 0.01)
COPYING = Problem(
    draw_copying,
    jaxbp.SoftmaxCrossEntropy(ignored_label=UNASKED),
    SYMBOLS,
    False,
    "accuracy",
    1 / SYMBOLS,
    0.99,
)


class Choice(enum.Enum):
    """The problems by their names on the command line."""

    adding = ADDING
    copying = COPYING


CELLS = {"RNN": jaxbp.RNN, "GRU": jaxbp.GRU, "LSTM": jaxbp.LSTM}


@dataclass(frozen=True)
class Options:
    """What is to be remembered, how long, and the budget that all networks share."""

    problem: Choice = Choice.adding
    """The adding or the copying problem."""
    lengths: tuple[int, ...] = (50, 100, 200)
    """Times between the first and the last thing to be known."""
    cells: tuple[str, ...] = ("RNN", "GRU", "LSTM")
    """Which networks."""
    hidden: int = 32
    """Outputs of the recurrent layer."""
    steps: int = 800
    """Updates, each on new sequences."""
    batch_size: int = 32
    """Sequences an update."""
    learning_rate: float = 5e-3
    """Adam's, at the start; it falls to zero along a cosine."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    warped: bool = True
    """Whether the gates' biases begin as if memories lasted from 1 to the length; a plain RNN has no gates."""
    seed: int = 0
    """Of weights and sequences."""
    output: Path = Path("results/memory")
    """The folder for the figures and results.json."""


def warped(params: jaxbp.Params, cell: str, hidden: int, length: int, key: PRNGKeyArray) -> jaxbp.Params:
    """Gates that keep what they hold for u times, u uniform from 1 to the length: σ(b) = 1 - 1/u, b = log(u - 1).

    That is the GRU's update gate and the LSTM's forget gate; the LSTM's input gate begins at -b.
    """
    if cell == "RNN":
        return params
    recurrent, *rest = params
    b = jnp.log(jax.random.uniform(key, (hidden,), minval=1.0, maxval=max(2.0, length - 1.0)))
    bias = recurrent["recurrent"]["bias"]
    bias = bias.at[hidden : 2 * hidden].set(b)
    bias = bias if cell == "GRU" else bias.at[:hidden].set(-b)
    return ({**recurrent, "recurrent": {**recurrent["recurrent"], "bias": bias}}, *rest)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def train(problem, recipe, length, steps, state):
    """A number of updates as one compiled scan, each on sequences of its own; the new state and the losses."""

    def one(state, _):
        x, targets = problem.draw(jax.random.fold_in(state.key, state.step), recipe.batch_size, length)
        state, metrics = update(recipe, state, x, targets)
        return state, metrics["loss"]

    return lax.scan(one, state, length=steps)


@partial(jax.jit, static_argnums=(0, 1))
def delta_norms(problem: Problem, model: jaxbp.Serial, params, x, targets) -> Float[Array, " t"]:
    """‖∂J/∂z[t]‖ of the recurrent layer's pre-activations, root mean square over examples, as the sweep passes."""
    _, deltas = jaxbp.run(model, problem.loss, params, x, targets).sweep(jaxbp.delta)
    delta = jaxbp.leaves(model, deltas)["0.input"]
    largest = jnp.max(jnp.abs(delta), (0, 2), keepdims=True)  # the square of a vanishing delta would be zero
    relative = delta / jnp.where(largest == 0, 1, largest)
    return largest[0, :, 0] * jnp.sqrt(jnp.sum(relative**2, (0, 2)) * len(delta))


def measure(problem: Problem, model: jaxbp.Layer, params, key: PRNGKeyArray, length: int, examples: int = 2000):
    """The score on new sequences."""
    x, targets = problem.draw(key, examples, length)
    metrics = jaxbp.evaluate(model, problem.loss, params, x, targets, 250)
    return metrics["accuracy" if problem.score == "accuracy" else "loss"]


def learn(problem: Problem, cell: str, length: int, options: Options) -> dict:
    """One network on one length: its score, its losses, and its deltas by time before and after."""
    started = time.perf_counter()
    keys = jax.random.split(jax.random.key(options.seed), 4)
    model = problem.model(CELLS[cell], options.hidden)
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(options.clip), optax.adam(schedule))
    few = problem.draw(keys[0], 64, length)
    state = jaxbp.TrainState.create(model, optimizer, few[0], keys[1])
    if options.warped:
        params = warped(state.params, cell, options.hidden, length, keys[2])
        state = jaxbp.TrainState(params, optimizer.init(params), state.step, state.key)
    before = delta_norms(problem, model, state.params, *few)
    recipe = jaxbp.Recipe(model, problem.loss, optimizer, options.batch_size)
    state, losses = train(problem, recipe, length, options.steps, state)
    after = delta_norms(problem, model, state.params, *few)
    score = measure(problem, model, state.params, keys[3], length)
    seconds = time.perf_counter() - started
    print(
        f"{cell:>4} over {length:>4}: {problem.score} {score:.4f} after {options.steps} steps in {seconds:.0f} seconds"
    )
    return {
        "cell": cell,
        "length": length,
        "score": score,
        "solved": problem.is_solved(score),
        "seconds": round(seconds, 1),
        "losses": thinned(losses),
        "deltas_before": np.asarray(before).tolist(),
        "deltas_after": np.asarray(after).tolist(),
    }


def thinned(losses: Float[Array, " steps"], points: int = 100) -> list[float]:
    """Means over equal stretches: a curve of at most so many points."""
    return [float(part.mean()) for part in np.array_split(np.asarray(losses), min(points, len(losses)))]


def main(options: Options | None = None) -> dict:
    """Trains every cell on every length, draws, and returns the numbers."""
    options = options or Options()
    problem = options.problem.value
    print(f"{options.problem.name.capitalize()}: {problem.score}, {problem.chance:.4f} by chance")
    runs = [learn(problem, cell, length, options) for length in options.lengths for cell in options.cells]
    folder = options.output / options.problem.name
    longest = [run for run in runs if run["length"] == max(options.lengths)]
    save_figure(folder, "score_by_length", score_by_length(runs, problem.score, problem.chance, problem.solved))
    save_figure(folder, "gradient_through_time", gradient_by_distance(longest, problem.last))
    metrics = {
        "problem": options.problem.name,
        "score": problem.score,
        "chance": problem.chance,
        "solved_beyond": problem.solved,
        "parameters": {cell: count_of(problem, cell, options) for cell in options.cells},
        **{
            name: getattr(options, name)
            for name in ("hidden", "steps", "batch_size", "learning_rate", "warped", "seed")
        },
        "runs": runs,
    }
    print(f"Figures and numbers are in {save_results(folder, metrics).parent}")
    return metrics


def count_of(problem: Problem, cell: str, options: Options) -> int:
    """How many parameters a network has."""
    x, _ = jax.eval_shape(lambda: problem.draw(jax.random.key(0), 1, 4))
    params = jax.eval_shape(lambda: problem.model(CELLS[cell], options.hidden).init(jax.random.key(0), x))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    command_line(main, Options)
