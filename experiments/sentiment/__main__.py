"""Did the reviewer like the film? Sentences of the Stanford Sentiment Treebank, by three networks and by counts.

Whole sentences alone are learned from, not their labelled parts, and word vectors begin at random. Each network is
trained from several seeds; all choices are made on the validation sentences, and the test sentences are used once.

    python -m experiments.sentiment --classify "A film to fall in love with."

says what the best of them makes of a sentence of yours, and of its words; the networks are trained once and kept.

Data: Socher et al., Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank, EMNLP 2013.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.sentiment.models import (
    UNKNOWN,
    Recipe,
    Vocabulary,
    by_word,
    in_its_words,
    log_odds,
    logistic_regression,
    models,
    naive_bayes,
    odds_of,
    train,
)
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import Labelled, load_sst2
from experiments.shared.text_plots import accuracies, words_heat
from experiments.shared.weights import ADVICE, has_weights, load_config, load_weights, save_weights

SHOWN = 10  # sentences in the figure


@dataclass(frozen=True)
class Options:
    """What to train, or what to classify."""

    classify: str | None = None
    """A sentence in English: what the best network makes of it is printed, and nothing else is done."""
    networks: tuple[str, ...] = ("convolutional", "recurrent", "transformer")
    """Which networks to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the initial weights, the order, and what is left out in training."""
    recipe: Recipe = field(default_factory=Recipe)
    output: Path = Path("results/sentiment")
    """The folder for figures, numbers and weights."""


def main(options: Options | None = None) -> dict:
    """Trains, tests, draws, and returns the numbers; or classifies a sentence."""
    options = options or Options()
    if options.classify is not None:
        return classify(options)
    training, validation, test = load_sst2()
    words = Vocabulary.of(training.sentences)
    known = models(len(words))
    if unknown := set(options.networks) - set(known):
        raise DataError(f"There is no network “{sorted(unknown)[0]}”: there are {', '.join(known)}.")
    counting = {"naive Bayes": naive_bayes, "logistic regression": logistic_regression}
    counters = {name: make(training, validation) for name, make in counting.items()}
    parts = {"validation": validation, "test": test}
    odds = {name: {part: odds_of(c, at.sentences) for part, at in parts.items()} for name, c in counters.items()}
    rows = {name: [scores({part: z[part] for part in parts}, parts)] for name, z in odds.items()}
    bayes, found, best, seconds = odds["naive Bayes"], {}, None, {}
    for name in options.networks:
        started, found[name] = time.perf_counter(), []
        for seed in options.seeds:
            params, numbers = train(known[name], options.recipe, words, training, validation, seed)
            found[name].append(
                {part: np.asarray(log_odds(known[name], params, words(at.sentences))) for part, at in parts.items()}
            )
            if best is None or min(row["validation_loss"] for row in numbers) < best[0]:
                best = min(row["validation_loss"] for row in numbers), name, params
        seconds[name] = round(time.perf_counter() - started, 1)
        rows[name] = [scores(z, parts) for z in found[name]]
        rows[f"{name} + naive Bayes"] = [scores(joined([z, bayes], parts), parts) for z in found[name]]
        print(f"{name}: {np.mean([row['validation_accuracy'] for row in rows[name]]):.2%} of the validation")
    every = [[found[name][i] for name in options.networks] + [bayes] for i in range(len(options.seeds))]
    rows["all networks + naive Bayes"] = [scores(joined(zs, parts), parts) for zs in every]
    save_weights(options.output, best[2], {"sentiment": best[1], "words": list(words.words)})
    metrics = report(rows) | {
        "saved": best[1],
        "seeds": options.seeds,
        "recipe": asdict(options.recipe),
        "seconds": seconds,
    }
    draw(options.output, rows, known[best[1]], best[2], words, test)
    print(f"Figures, numbers and weights are in {save_results(options.output, metrics).parent}")
    return metrics


def joined(odds: list[dict[str, np.ndarray]], parts: dict[str, Labelled]) -> dict[str, np.ndarray]:
    """A weighted sum of log-odds; a logistic regression on the validation finds the weights."""
    columns = {part: np.stack([z[part] for z in odds], 1) for part in parts}
    fitted = LogisticRegression(C=100.0).fit(columns["validation"], parts["validation"].labels)
    return {part: fitted.decision_function(z) for part, z in columns.items()}


def scores(odds: dict[str, np.ndarray], parts: dict[str, Labelled]) -> dict[str, float]:
    """The share of right signs."""
    return {f"{part}_accuracy": float(np.mean((z > 0) == parts[part].labels)) for part, z in odds.items()}


def report(rows: dict[str, list[dict[str, float]]]) -> dict:
    """The table, printed and as numbers; the best row is that of the validation."""
    table = {}
    for name, runs in rows.items():
        each = [run["test_accuracy"] for run in runs]
        table[name] = {
            "validation_accuracy": float(np.mean([run["validation_accuracy"] for run in runs])),
            "test_accuracy": float(np.mean(each)),
            "test_accuracy_standard_deviation": float(np.std(each, ddof=1)) if len(each) > 1 else None,
            "test_accuracy_worst": min(each),
            "runs": runs,
        }
        row = table[name]
        print(f"{name:30} validation {row['validation_accuracy']:.2%}, test {row['test_accuracy']:.2%}")
    chosen = max((name for name in table if "regression" not in name), key=lambda n: table[n]["validation_accuracy"])
    print(f"\nBest on the validation: {chosen}, {table[chosen]['test_accuracy']:.2%} of the test")
    return {"best": chosen, "test_accuracy": table[chosen]["test_accuracy"], "table": table}


def draw(folder: Path, rows: dict, model, params, words: Vocabulary, test: Labelled) -> None:
    """The table as a figure, and what the words of some test sentences say to the network."""
    save_figure(folder, "accuracies", accuracies({n: [r["test_accuracy"] for r in runs] for n, runs in rows.items()}))
    some = [i for i, s in enumerate(test.sentences) if len(s.split()) <= 24][:SHOWN]
    sentences = [test.sentences[i] for i in some]
    save_figure(folder, "words", heat(model, params, words, sentences, [int(test.labels[i]) for i in some]))


def heat(model, params, words: Vocabulary, sentences: list[str], labels: list[int] | None = None):
    """The sentences on coloured ground."""
    x = words(sentences)
    values, odds = np.asarray(by_word(model, params, x)), np.asarray(log_odds(model, params, x))
    split = [sentence.split() for sentence in sentences]
    names = "dislike", "praise"
    captions = [f"{1 / (1 + np.exp(-z)):.0%} sure of praise" for z in odds]
    if labels is not None:
        captions = [f"{caption}; it is {names[label]}" for caption, label in zip(captions, labels, strict=True)]
    title = "The input gradient by word: orange speaks for praise, blue against it"
    return words_heat(split, [row[: len(s)] for row, s in zip(values, split, strict=True)], captions, title)


def classify(options: Options) -> dict:
    """Prints how sure the network is, and draws the sentence; without a trained network it trains first."""
    sentence, folder = in_its_words(options.classify), options.output
    if not has_weights(folder):
        print("No network has been trained yet: that comes first, once.")
        main(replace(options, classify=None))
    config = load_config(folder)
    try:
        words = Vocabulary(tuple(config["words"]))
        model = models(len(words))[config["sentiment"]]
    except (KeyError, TypeError):
        raise DataError(f"The weights in {folder} are no classifier's of sentences: {ADVICE}.") from None
    x = words([sentence])
    if not np.any(x.values > UNKNOWN):
        raise DataError(f"“{options.classify}” has no word that the network knows: it reads English film reviews.")
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    params = load_weights(folder, like, config)
    praise = float(1 / (1 + np.exp(-log_odds(model, params, x)[0])))
    values = np.asarray(by_word(model, params, x))[0]
    print(f"{'Praise' if praise > 0.5 else 'Dislike'}: {max(praise, 1 - praise):.0%} sure.")
    said = {word: float(value) for word, value in zip(sentence.split(), values[: x.lengths[0]], strict=True)}
    print("  ".join(f"{word} {value:+.2f}" for word, value in said.items()))
    path = save_figure(folder, "classified", heat(model, params, words, [sentence]))
    print(f"What its words say is drawn in {path}")
    return {"praise": praise, "words": said}


if __name__ == "__main__":
    command_line(main, Options)
