"""Shakespeare, character by character: a transformer that gives the probability of the next one.

The two presets are nanoGPT's: a small network for a CPU, a large one for a GPU.

    python -m experiments.language_model --sample "ROMEO:"

goes on from a text of yours; the network for it is trained once and kept.

Source: Karpathy, nanoGPT, https://github.com/karpathy/nanoGPT (2022): the networks, Adam's settings and the split.
"""

import enum
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int32

import jaxbp
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import load_shakespeare
from experiments.shared.text_plots import language_curves, surprise
from experiments.shared.weights import has_weights, load_config, load_weights, save_weights

LOSS = jaxbp.SoftmaxCrossEntropy()
Windows = Int32[np.ndarray, "w t"]


@dataclass(frozen=True)
class Size:
    """A network, and on how much it is trained: `steps` batches of windows of `context` characters."""

    blocks: int
    heads: int
    features: int
    context: int
    dropout: float
    batch: int
    steps: int

    def model(self, characters: int) -> jaxbp.LanguageModel:
        """The decoder of a transformer, with one embedding at both ends."""
        gelu = jaxbp.GELU(approximate=True)
        kind = {"causal": True, "dropout": self.dropout, "activation": gelu, "bias": False}
        block = jaxbp.encoder_block(self.features, self.heads, **kind)
        drop = [jaxbp.Dropout(self.dropout)] if self.dropout else []
        positions = jaxbp.LearnedPositions(self.context)
        body = jaxbp.Serial(positions, *drop, *[block] * self.blocks, jaxbp.LayerNorm())
        return jaxbp.LanguageModel(characters, self.features, body)

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with decay of matrices; the learning rate rises for 100 steps, and falls to a tenth."""
        rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, min(100, self.steps // 2), self.steps, 1e-4)
        matrices = lambda params: jax.tree.map(lambda p: p.ndim >= 2, params)  # noqa: E731
        adam = optax.adamw(rate, 0.9, 0.99, weight_decay=0.1, mask=matrices)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)


class Preset(enum.Enum):
    """nanoGPT's networks for this text."""

    small = Size(4, 4, 128, 64, 0.0, 12, 2000)
    large = Size(6, 6, 384, 256, 0.2, 64, 5000)


@dataclass(frozen=True)
class Options:
    """What to train, or what to go on from."""

    preset: Preset = Preset.small
    """The small network takes minutes on a CPU, the large one wants a GPU."""
    steps: int | None = None
    """Of the training; the preset's own number unless given."""
    seed: int = 0
    """Of the initial weights, the windows, the dropout and the samples."""
    sample: str | None = None
    """A text to go on from: what comes is printed, and nothing else is done."""
    length: int = 500
    """How many characters a sample has."""
    temperature: float = 0.8
    """Of samples: below 1 the likely becomes likelier."""
    top_k: int | None = None
    """Draw from so many characters alone, the likeliest."""
    output: Path = Path("results/language_model")
    """The folder for figures, numbers and weights."""


def main(options: Options | None = None) -> dict:
    """Trains, tests, draws, prints a sample, and returns the numbers; or goes on from a text."""
    options = options or Options()
    folder = options.output / options.preset.name
    if options.sample is not None:
        return go_on(options, folder)
    text = load_shakespeare()
    characters = "".join(sorted(set(text)))
    numbers = as_numbers(text, characters)
    training, validation = np.split(numbers, [int(0.9 * len(numbers))])
    size = replace(options.preset.value, steps=options.steps or options.preset.value.steps)
    model = size.model(len(characters))
    params, history, seconds = train(model, size, training, validation, options.seed)
    save_weights(folder, params, {"size": asdict(size), "characters": characters})
    each = losses_by_position(model, params, *windows(validation, size.context))
    save_figure(folder, "learning_curves", language_curves(history, each))
    passage, losses = read_through(model, params, validation[len(validation) // 2 :], size.context)
    save_figure(folder, "surprise", surprise(as_text(passage, characters), losses))
    sample = drawn(model, params, characters, "\n", options)
    metrics = {
        "preset": options.preset.name,
        "steps": size.steps,
        "parameters": sum(p.size for p in jax.tree.leaves(params)),
        "validation_loss": history["validation_loss"][-1],
        "validation_characters": windows(validation, size.context)[0].size,
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "history": history,
        "validation_loss_by_position": each.tolist(),
        "sample": sample,
    }
    print(
        f"{sample}\n\nValidation loss: {metrics['validation_loss']:.4f} nats a character, after {seconds:.0f} seconds"
    )
    print(f"Figures, numbers and weights are in {save_results(folder, metrics).parent}")
    return metrics


def train(model, size: Size, training: Int32[np.ndarray, " n"], validation: Int32[np.ndarray, " m"], seed: int):
    """Returns parameters, losses by step, and the seconds that steps took, without those of validation."""
    rng, optimizer = np.random.default_rng(seed), size.optimizer()
    held_out = windows(validation, size.context)
    state = jaxbp.TrainState.create(model, optimizer, held_out[0][:1], jax.random.key(seed))
    step = jaxbp.make_train_step(model, LOSS, optimizer)
    history, seconds = {"step": [], "loss": [], "validation_loss": []}, 0.0
    every = max(1, size.steps // 8)
    for first in range(0, size.steps, every):
        started, losses = time.perf_counter(), []
        for _ in range(first, min(first + every, size.steps)):
            starts = rng.integers(len(training) - size.context, size=size.batch)
            seen = training[starts[:, None] + np.arange(size.context + 1)]
            state, metrics = step(state, seen[:, :-1], seen[:, 1:])
            losses.append(metrics["loss"])
        loss = float(np.mean(losses))
        seconds += time.perf_counter() - started
        measured = jaxbp.evaluate(model, LOSS, state.params, *held_out, batch_size=64)
        done = first + len(losses)
        print(f"step {done}: loss {loss:.3f}, validation {measured['loss']:.3f}", file=sys.stderr)
        for name, value in (("step", done), ("loss", loss), ("validation_loss", measured["loss"])):
            history[name].append(value)
    return state.params, history, seconds


def windows(
    numbers: Int32[np.ndarray, " n"], context: int
) -> tuple[Int32[np.ndarray, "w t"], Int32[np.ndarray, "w t"]]:
    """A text cut into windows, and the characters that follow; what is left at its end is left out."""
    whole = (len(numbers) - 1) // context * context
    return numbers[:whole].reshape(-1, context), numbers[1 : whole + 1].reshape(-1, context)


@partial(jax.jit, static_argnums=0)
def losses_of(model, params, x, targets) -> Float[jax.Array, "w t"]:
    """-log p of every character."""
    return LOSS.per_example(model.forward(params, x)[0], targets)[0]


def losses_by_position(model, params, x, targets) -> Float[np.ndarray, " t"]:
    """The mean loss of the first, second, … character of the windows."""
    rows = [losses_of(model, params, x[i : i + 64], targets[i : i + 64]) for i in range(0, len(x) // 64 * 64, 64)]
    return np.mean(np.concatenate(rows or [losses_of(model, params, x, targets)]), 0)


def read_through(model, params, numbers: Int32[np.ndarray, " n"], context: int, halves: int = 18):
    """The beginning of a text, and the loss of each character, half a context or more having been read before."""
    half = context // 2
    starts = np.arange(0, min(halves * half, len(numbers) - context), half)[:, None]
    x = numbers[starts + np.arange(context)]
    targets = numbers[starts + np.arange(1, context + 1)]
    return targets[:, half:].ravel(), np.asarray(losses_of(model, params, x, targets))[:, half:].ravel()


def as_numbers(text: str, characters: str) -> Int32[np.ndarray, " n"]:
    """Each character's place in the alphabet.

    Raises DataError where there is no text, or a character that the alphabet lacks.
    """
    if not text:
        raise DataError("There is no text to go on from: give at least one character.")
    if unknown := sorted(set(text) - set(characters)):
        known = "".join(character for character in characters if character.isprintable())
        raise DataError(
            f"The network never saw the character “{unknown[0]}”: it was trained on Shakespeare's plays, which have "
            f"{known.strip()}, spaces and line ends."
        )
    places = {character: i for i, character in enumerate(characters)}
    return np.array([places[character] for character in text], np.int32)


def as_text(numbers, characters: str) -> str:
    """The inverse of `as_numbers`."""
    return "".join(characters[i] for i in numbers)


def drawn(model, params, characters: str, prompt: str, options: Options) -> str:
    """The prompt and what follows; the network sees the last half of its context, and draws another half."""
    text = as_numbers(prompt, characters)
    context = next(layer.length for layer in model.body.layers if isinstance(layer, jaxbp.LearnedPositions))
    half, end = context // 2, len(text) + options.length
    key = jax.random.key(options.seed)
    while len(text) < end:
        key, now = jax.random.split(key)
        seen = jnp.asarray(text[-half:])[None]
        chosen = {"key": now, "temperature": options.temperature, "top_k": options.top_k}
        text = np.append(text, jaxbp.generate(model, params, seen, half, **chosen).tokens[0])
    return as_text(text[:end], characters)


def go_on(options: Options, folder: Path) -> dict:
    """Prints a text with what follows; without a trained network it trains one first."""
    if not has_weights(folder):
        print("No network has been trained yet: that comes first, once.")
        main(replace(options, sample=None))
    config = load_config(folder)
    try:
        characters, size = config["characters"], Size(**config["size"])
        model = size.model(len(characters))
    except (KeyError, TypeError):
        raise DataError(f"The weights in {folder} are no language model's: delete the folder.") from None
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, size.context), np.int32)))
    sample = drawn(model, load_weights(folder, like, config), characters, options.sample, options)
    print(sample)
    return {"sample": sample}


if __name__ == "__main__":
    command_line(main, Options)
