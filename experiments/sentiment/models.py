"""Three classifiers of sentences, each with word vectors of its own, and the two counts of words to beat.

convolutional    words next to each other, by windows of 2, 3 and 4; each feature's largest value
recurrent        GRUs from both ends; each feature's largest value
transformer      words that look at each other; the mean

All end in a dense layer with two outputs; their difference z is the log-odds of praise. Words are left out at random in
training, as are numbers of their vectors: 6,920 sentences are few.

Naive Bayes has log-odds too, of counted words and pairs of words. It errs elsewhere than networks do, so a weighted sum
of their log-odds errs less; a logistic regression on the validation sentences finds the weights.

Sources: Kim, arXiv 1408.5882 (convolutional); Wang & Manning, Baselines and Bigrams, ACL 2012 (naive Bayes); Mesnil et
al., arXiv 1412.5335 (sums).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

import jaxbp
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import Labelled
from experiments.shared.weight_averaging import average_of, averaged

PADDING, UNKNOWN = 0, 1
LONGEST = 64  # words; the longest sentence of the data set has 56
LOSS = jaxbp.SoftmaxCrossEntropy()


def models(words: int, features: int = 64, hidden: int = 64, dropout: float = 0.5) -> dict[str, jaxbp.Serial]:
    """The classifiers by name; the first layer of each is the embedding."""
    embedding = jaxbp.MapValues(jaxbp.Embedding(words, features, jaxbp.Normal(0.1)))
    drop, end = jaxbp.Dropout(dropout), jaxbp.Dense(2)
    start = [embedding, jaxbp.MapValues(drop)]
    windows = [
        jaxbp.Serial(jaxbp.MapValues(jaxbp.Conv(hidden, (n,))), jaxbp.MapValues(jaxbp.ReLU()), jaxbp.MaxOverTime())
        for n in (2, 3, 4)
    ]
    block = jaxbp.encoder_block(features, 4, 2 * features, dropout=0.2)
    return {
        "convolutional": jaxbp.Serial(
            *start, jaxbp.ZeroPadding(), jaxbp.Parallel(*windows), jaxbp.Concatenate(), drop, end
        ),
        "recurrent": jaxbp.Serial(*start, jaxbp.Bidirectional(jaxbp.GRU(hidden)), jaxbp.MaxOverTime(), drop, end),
        "transformer": jaxbp.Serial(
            *start,
            jaxbp.MapValues(jaxbp.SinusoidalPositions()),
            block,
            jaxbp.MapValues(jaxbp.LayerNorm()),
            jaxbp.MeanOverTime(),
            drop,
            end,
        ),
    }


@dataclass(frozen=True)
class Vocabulary:
    """The words that occur twice or more; the others are one, the unknown."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, sentences: list[str], least: int = 2) -> "Vocabulary":
        """Those of a training set."""
        counts = Counter(word for sentence in sentences for word in sentence.split())
        return cls(tuple(word for word, count in counts.most_common() if count >= least))

    def __len__(self) -> int:
        return len(self.words) + 2

    def __call__(self, sentences: list[str]) -> jaxbp.Sequences:
        """Numbers [n, LONGEST]; DataError where a sentence is longer."""
        places = {word: i for i, word in enumerate(self.words, 2)}
        rows = [[places.get(word, UNKNOWN) for word in sentence.split()] for sentence in sentences]
        if (most := max(map(len, rows))) > LONGEST:
            raise DataError(
                f"A text of {most} words is too long for networks that read up to {LONGEST}: give sentences."
            )
        values = np.array([row + [PADDING] * (LONGEST - len(row)) for row in rows], np.int32)
        return jaxbp.Sequences(values, np.array([len(row) for row in rows], np.int32))


def in_its_words(text: str) -> str:
    """A text as the data set has it: lower case, signs and "n't" as words of their own.

    Raises DataError where nothing is left.
    """
    text = text.lower().replace("’", "'")
    text = re.sub(r"(n't|'(?:s|re|ve|ll|d|m)|[.,!?;:()\"])(?!\w)", r" \1 ", text)
    words = " ".join(text.split())
    if not words:
        raise DataError("There is nothing to classify: the text is empty.")
    return words


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, and of all epochs the one whose averaged weights did best on the validation.

    words_left_out: the share of words that training makes unknown.
    """

    epochs: int = 6
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.01
    averaging: float = 0.99
    words_left_out: float = 0.3


def leave_out(share: float, key, x: jaxbp.Sequences) -> jaxbp.Sequences:
    """Some words made unknown."""
    out = jax.random.bernoulli(key, share, x.values.shape) & (x.values != PADDING)
    return x._replace(values=jnp.where(out, UNKNOWN, x.values))


def train(
    model: jaxbp.Layer, recipe: Recipe, words: Callable, training: Labelled, validation: Labelled, seed: int
) -> tuple[jaxbp.Params, list[dict[str, float]]]:
    """The parameters that did best on the validation, and the numbers of each epoch."""
    data, held_out = ((words(part.sentences), part.labels) for part in (training, validation))
    optimizer = averaged(optax.adamw(recipe.rate, weight_decay=recipe.weight_decay), recipe.averaging)
    x = jax.tree.map(lambda array: array[:1], data[0])
    state = jaxbp.TrainState.create(model, optimizer, x, jax.random.key(seed, impl="rbg"))
    best, numbers = None, []

    def look(state, metrics):
        nonlocal best
        average = average_of(model, state)
        measured = jaxbp.evaluate(model, LOSS, average, *held_out)
        numbers.append({"loss": metrics["loss"], **{f"validation_{name}": v for name, v in measured.items()}})
        if measured["loss"] == min(row["validation_loss"] for row in numbers):
            best = jax.tree.map(np.asarray, average)

    jaxbp.fit(
        model, LOSS, optimizer, data, epochs=recipe.epochs, batch_size=recipe.batch, state=state,
        augment=partial(leave_out, recipe.words_left_out), on_epoch=look, progress=False,
    )  # fmt: skip
    return best, numbers


@partial(jax.jit, static_argnums=0)
def log_odds(model: jaxbp.Layer, params, x: jaxbp.Sequences) -> Float[jax.Array, " n"]:
    """z of each sentence: above zero it is praise."""
    logits, _ = model.forward(params, x)
    return logits[:, 1] - logits[:, 0]


@partial(jax.jit, static_argnums=0)
def by_word(model: jaxbp.Serial, params, x: jaxbp.Sequences) -> Float[jax.Array, "n t"]:
    """What each word adds to z, to first order: its vector times the gradient that arrives at it."""
    logits, residuals = model.forward(params, x)
    g = jnp.broadcast_to(jnp.array([-1.0, 1.0], logits.dtype), logits.shape)
    _, deltas = jaxbp.sweep(model, params, residuals, g, visit=jaxbp.delta)
    vectors, _ = model.layers[0].forward(params[0], x)
    return jnp.sum(jaxbp.leaves(model, deltas)["0.body"] * vectors.values, -1)


def naive_bayes(training: Labelled, validation: Labelled) -> Pipeline:
    """Of words and pairs of words; the smoothing is chosen on the validation."""
    return best_of([counted(MultinomialNB(alpha=alpha)) for alpha in (0.3, 0.5, 1.0, 2.0)], training, validation)


def logistic_regression(training: Labelled, validation: Labelled) -> Pipeline:
    """Of words and pairs of words; the regularisation is chosen on the validation."""
    choices = [counted(LogisticRegression(C=c, max_iter=1000)) for c in (0.1, 0.3, 1.0, 3.0)]
    return best_of(choices, training, validation)


def counted(classifier) -> Pipeline:
    """A classifier behind a counter of words and pairs."""
    return make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+"), classifier)


def best_of(choices: list[Pipeline], training: Labelled, validation: Labelled) -> Pipeline:
    """The one that does best on the validation, of equals the first."""
    return max((choice.fit(*training) for choice in choices), key=lambda choice: choice.score(*validation))


def odds_of(classifier: Pipeline, sentences: list[str]) -> Float[np.ndarray, " n"]:
    """The log-odds of a classifier that gives probabilities."""
    log_p = classifier.predict_log_proba(sentences)
    return log_p[:, 1] - log_p[:, 0]
