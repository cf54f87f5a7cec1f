"""A translator: subwords, an encoder–decoder transformer with one embedding for both languages, and its training.

    source  s[0] … s[m-1] <end>                     target  <begin> t[0] … t[k-1]  →  t[0] … t[k-1] <end>

Sentences of about the same length make a batch, and are filled up to one of a few lengths: one program is compiled for
each. A batch has as many sentences as make about the same number of subwords.

Source: Vaswani et al., arXiv 1706.03762; pre-norm as in Xiong et al., arXiv 2002.04745.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32
from tokenizers import Tokenizer

import jaxbp
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import Pairs
from experiments.shared.weight_averaging import average_of, averaged
from experiments.shared.weights import ADVICE, load_config, load_weights, save_weights
from experiments.translation.subwords import BEGIN, END, PADDING, UNKNOWN, encode
from jaxbp.core.paths import map_layers

SUBWORDS = "subwords.json"  # the file
LENGTHS = (12, 16, 20, 24, 28, 36, 64)  # subwords to which sentences are filled up; longer ones are not trained on


@dataclass(frozen=True)
class Size:
    """Of a translator.

    vocabulary: subwords.
    features: numbers a subword.
    heads: of each attention.
    hidden: units of each network on the positions.
    blocks: of the encoder, and of the decoder.
    dropout: everywhere.
    """

    vocabulary: int = 6000
    features: int = 256
    heads: int = 4
    hidden: int = 512
    blocks: int = 3
    dropout: float = 0.15

    def model(self) -> jaxbp.EncoderDecoder:
        """Begins with embeddings that are normalised, so that they are as large as what blocks add."""
        start = jaxbp.Sublayer(jaxbp.MapValues(jaxbp.SinusoidalPositions()), dropout=self.dropout)
        sizes = (self.features, self.heads, self.hidden)
        end = jaxbp.MapValues(jaxbp.LayerNorm())
        return jaxbp.EncoderDecoder(
            self.vocabulary,
            self.features,
            jaxbp.Serial(start, *[jaxbp.encoder_block(*sizes, dropout=self.dropout)] * self.blocks, end),
            jaxbp.Serial(
                start, *[jaxbp.decoder_block(*sizes, dropout=self.dropout)] * self.blocks, jaxbp.DropMemory(), end
            ),
            full_logits=False,
            initializer=jaxbp.Normal(self.features**-0.5),
        )


class Batch(NamedTuple):
    """source and target, `Sequences` of subwords [n, length], and what follows each subword of the target."""

    source: jaxbp.Sequences
    target: jaxbp.Sequences
    labels: Int32[np.ndarray, "n length"]


def batches(
    pairs: list[tuple[list[int], list[int]]], subwords: int, rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """All pairs that are no longer than the longest of `LENGTHS`, in random order if there is an `rng`.

    Sentences of length 0, which count for nothing, fill up the last batch of each length.
    """
    longest = np.array([max(len(german), len(english)) + 1 for german, english in pairs])
    order = np.arange(len(pairs)) if rng is None else rng.permutation(len(pairs))
    parts = []
    for below, length in zip((0, *LENGTHS), LENGTHS, strict=False):
        chosen = order[(below < longest[order]) & (longest[order] <= length)]
        size = max(1, subwords // length)
        parts += [(length, size, chosen[i : i + size]) for i in range(0, len(chosen), size)]
    for i in np.arange(len(parts)) if rng is None else rng.permutation(len(parts)):
        length, size, chosen = parts[i]
        yield batch([pairs[j] for j in chosen], length, size)


def batch(pairs: list[tuple[list[int], list[int]]], length: int, size: int) -> Batch:
    """So many rows; those without a pair are empty."""
    source = filled([[*german, END] for german, _ in pairs], length, size)
    target = filled([[BEGIN, *english] for _, english in pairs], length, size)
    return Batch(source, target, filled([[*english, END] for _, english in pairs], length, size).values)


def filled(rows: list[list[int]], length: int, size: int) -> jaxbp.Sequences:
    """Rows [size, length] with padding behind them."""
    values, lengths = np.full((size, length), PADDING, np.int32), np.zeros(size, np.int32)
    for i, row in enumerate(rows):
        values[i, : len(row)], lengths[i] = row, len(row)
    return jaxbp.Sequences(values, lengths)


def encoded(tokenizer: Tokenizer, pairs: Pairs) -> list[tuple[list[int], list[int]]]:
    """The pairs as subwords."""
    return list(zip(encode(tokenizer, pairs.german), encode(tokenizer, pairs.english), strict=True))


@dataclass(frozen=True)
class Recipe:
    """How a translator is trained: Adam, whose learning rate rises for `warm_up` steps and falls as 1 / √step.

    epochs: how often each pair is seen, at most.
    minutes: after which no other epoch begins.
    subwords: of a batch, in either language.
    peak, warm_up: the highest learning rate, and after how many steps.
    averaging: the decay of the weights' moving average, which is what translates.
    smoothing: the share of the target that goes to all words alike.
    """

    epochs: int = 30
    minutes: float = 90.0
    subwords: int = 1250
    peak: float = 1e-3
    warm_up: int = 400
    averaging: float = 0.998
    smoothing: float = 0.1

    def optimizer(self) -> optax.GradientTransformation:
        """With gradients no longer than 1."""

        def rate(step):
            return self.peak * jnp.minimum((step + 1) / self.warm_up, jnp.sqrt(self.warm_up / (step + 1)))

        adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, 0.9, 0.98, eps=1e-9))
        return averaged(adam, self.averaging)


def train(
    model: jaxbp.EncoderDecoder,
    recipe: Recipe,
    training: list[tuple[list[int], list[int]]],
    validation: list[tuple[list[int], list[int]]],
    *,
    seed: int,
    on_epoch: Callable[[jaxbp.Params, dict[str, list[float]]], None],
) -> None:
    """Calls `on_epoch` with the averaged weights and the numbers so far after every epoch: they are usable at once."""
    started, worked = time.perf_counter(), time.process_time()
    loss = jaxbp.LinearCrossEntropy(recipe.smoothing, ignored_label=PADDING)
    rng, history, state = np.random.default_rng(seed), {}, None
    optimizer = recipe.optimizer()
    step = jaxbp.make_train_step(model, loss, optimizer)
    for _ in range(recipe.epochs):
        losses, counts = [], []
        for source, target, labels in batches(training, recipe.subwords, rng):
            if state is None:
                key = jax.random.key(seed, impl="rbg")  # on a CPU the faster generator
                state = jaxbp.TrainState.create(model, optimizer, (source, target), key)
            state, metrics = step(state, (source, target), labels)
            losses.append(float(metrics["loss"]))
            counts.append(np.count_nonzero(labels))
        average = average_of(model, state)
        numbers = {
            "loss": float(np.average(losses, weights=counts)),
            "validation_loss": mean_loss(model, average, validation, recipe.subwords),
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - worked,  # of all cores, where others use them too
        }
        for name, value in numbers.items():
            history.setdefault(name, []).append(value)
        on_epoch(average, history)
        if numbers["seconds"] > 60 * recipe.minutes:
            return


def mean_loss(model: jaxbp.EncoderDecoder, params: jaxbp.Params, pairs: list, subwords: int) -> float:
    """The cross-entropy in nats a subword, without smoothing and dropout."""
    parts = [(loss_of(model, params, batch), np.count_nonzero(batch.labels)) for batch in batches(pairs, subwords)]
    losses, counts = zip(*parts, strict=True)
    return float(np.average(np.array(losses, float), weights=counts))


@partial(jax.jit, static_argnums=0)
def loss_of(model: jaxbp.EncoderDecoder, params: jaxbp.Params, batch: Batch) -> Float[Array, ""]:
    """A batch's mean."""
    outputs, _ = model.forward(params, (batch.source, batch.target))
    return jaxbp.LinearCrossEntropy(ignored_label=PADDING).forward(outputs, batch.labels)[0]


@dataclass(frozen=True)
class Translator:
    """A trained network with its subwords: German sentences in, English ones out."""

    size: Size
    params: jaxbp.Params
    tokenizer: Tokenizer

    def __call__(self, sentences: list[str], beams: int = 5, length_penalty: float = 1.0) -> list[str]:
        """The best translations that the search finds; with one beam the greedy ones.

        Raises DataError where a sentence is empty, too long, or has no word in letters that the network knows.
        """
        rows = [self.readable(sentence) for sentence in sentences]
        model, found, room = self.size.model(), [""] * len(rows), 100 if len(rows) > 1 else 1
        few = LENGTHS[::-3][::-1]  # a search takes longer to compile than padding takes to read
        lengths = np.array([next(length for length in few if len(row) < length) for row in rows])
        for length in np.unique(lengths):
            here = np.flatnonzero(lengths == length)
            for i in range(0, len(here), room):
                chosen = here[i : i + room]
                source = filled([[*rows[j], END] for j in chosen], int(length), room)
                begin = jnp.full((room, 1), BEGIN)
                # A translation is hardly longer than half as long again.
                search = {"source": source, "beams": beams, "length_penalty": length_penalty, "end": END}
                best = jaxbp.beam_search(model, self.params, begin, 10 + 3 * int(length) // 2, **search)
                tokens, counts = np.asarray(best.tokens[:, 0]), np.asarray(best.lengths[:, 0])
                for j, row, count in zip(chosen, tokens, counts, strict=False):
                    found[j] = self.tokenizer.decode(row[:count].tolist())
        return found

    def readable(self, sentence: str) -> list[int]:
        """The sentence's subwords."""
        (row,) = encode(self.tokenizer, [sentence])
        if not row:
            raise DataError("There is nothing to translate: the text is empty.")
        known = [self.tokenizer.id_to_token(i) for i in row if i != UNKNOWN]
        if not any(character.isalnum() for token in known for character in token):
            raise DataError(f"“{sentence}” has no word that the network can read: it knows German, in Latin letters.")
        if len(row) >= LENGTHS[-1]:
            problem = f"“{sentence[:40]}…” has {len(row)} subwords"
            raise DataError(f"{problem}: the network reads up to {LENGTHS[-1] - 1}; give it sentence by sentence.")
        return row

    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(p.size for p in jax.tree.leaves(self.params))


def save_translator(folder: Path, translator: Translator) -> None:
    """Weights, configuration and subwords; see `experiments.weights`."""
    subwords = translator.tokenizer.to_str().encode()
    save_weights(folder, translator.params, {"translator": asdict(translator.size)}, {SUBWORDS: subwords})


def load_translator(folder: Path) -> Translator:
    """What `save_translator` wrote; DataError, in one sentence, where that is damaged or something else."""
    config = load_config(folder)
    try:
        size = Size(**config["translator"])
        tokenizer = Tokenizer.from_file(str(folder / SUBWORDS))
    except Exception:  # `tokenizers` raises no other
        raise DataError(f"The weights in {folder} are no translator's: {ADVICE}.") from None
    x = filled([[END]], LENGTHS[0], 1)
    like = jax.eval_shape(lambda: size.model().init(jax.random.key(0), (x, x)))
    return Translator(size, load_weights(folder, like, config), tokenizer)


def attention(translator: Translator, german: str, english: str) -> tuple[list[np.ndarray], list[str], list[str]]:
    """What the decoder looks at while it writes: of each block [heads, written, read], and what is read and written."""
    source, target = encode(translator.tokenizer, [german, english])
    length = max(len(source), len(target)) + 1
    x = batch([(source, target)], length, 1)
    model = plainly(translator.size.model())
    _, residuals = jax.jit(model.forward)(translator.params, (x.source, x.target))
    kept = jaxbp.leaves(model, residuals)
    maps = [kept[f"decoder.{block}.1.body.attention"][0] for block in range(1, 1 + translator.size.blocks)]
    read, written = ([translator.tokenizer.id_to_token(i) for i in (*row, END)] for row in (source, target))
    return [np.asarray(p)[0].reshape(-1, length, length)[:, : len(written), : len(read)] for p in maps], read, written


def plainly(model: jaxbp.Layer) -> jaxbp.Layer:
    """The same model with attention that keeps its weights."""

    def plain(path: str, layer: jaxbp.Layer) -> jaxbp.Layer:
        return jaxbp.PlainAttention(layer.causal, layer.dropout) if isinstance(layer, jaxbp.Attention) else layer

    return map_layers(model, plain)
