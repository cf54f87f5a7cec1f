"""German to English: an encoder–decoder transformer, trained on 29,000 captions of pictures (Multi30k).

    python -m experiments.translation --translate "Zwei Hunde spielen im Schnee."

prints a translation of yours; the network for it is trained once and kept, after every epoch anew.

Data: Elliott et al., Multi30K: Multilingual English-German Image Descriptions, arXiv 1605.00459. The score is sacreBLEU
(Post, arXiv 1804.08771) of text as it is written, with its capitals, and not cut into words.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from sacrebleu.metrics import BLEU

from experiments.shared.atomic_files import write_atomically
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import Pairs, load_multi30k
from experiments.shared.text_plots import attention_maps, translation_curves
from experiments.shared.weights import has_weights
from experiments.translation.subwords import learn_subwords
from experiments.translation.translator import (
    Recipe,
    Size,
    Translator,
    attention,
    encoded,
    load_translator,
    save_translator,
    train,
)

SHOWN = 8  # sentences in the results, with their translations


@dataclass(frozen=True)
class Options:
    """The network, how it is trained, and how it searches."""

    translate: str | None = None
    """A German sentence: its translation is printed, and nothing else is done."""
    train: bool = True
    """Train; else test the network that is in the folder."""
    size: Size = field(default_factory=Size)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    """Of the initial weights, the order and the dropout."""
    beams: int = 5
    """Of the search."""
    length_penalty: float = 1.0
    """With which longer translations are forgiven; chosen on the validation sentences."""
    output: Path = Path("results/translation")
    """The folder for figures, numbers and weights."""


def main(options: Options | None = None) -> dict:
    """Trains, tests, draws, and returns the numbers; or translates a sentence."""
    options = options or Options()
    if options.translate is not None:
        return translate(options)
    training, validation, test = load_multi30k()
    if options.train:
        learn(options, training, validation)
    return examine(options, validation, test)


def learn(options: Options, training: Pairs, validation: Pairs) -> None:
    """Trains; after every epoch the folder holds a translator that can be used."""
    tokenizer = learn_subwords(training.german + training.english, options.size.vocabulary)
    size = replace(options.size, vocabulary=tokenizer.get_vocab_size())

    def keep(params, history):
        save_translator(options.output, Translator(size, params, tokenizer))
        write_atomically(options.output / "history.json", (json.dumps(history, indent=2) + "\n").encode())
        numbers = ", ".join(f"{name.replace('_', ' ')} {values[-1]:.3f}" for name, values in history.items())
        print(f"epoch {len(history['loss'])}: {numbers}", flush=True)

    pairs = [encoded(tokenizer, part) for part in (training, validation)]
    train(size.model(), options.recipe, *pairs, seed=options.seed, on_epoch=keep)


def examine(options: Options, validation: Pairs, test: Pairs) -> dict:
    """BLEU, greedy and by beam search, on both; figures of the training and of what the translator looks at."""
    translator, folder = load_translator(options.output), options.output
    history = json.loads((folder / "history.json").read_text())
    metric = BLEU()
    found, scores = {}, {}
    for name, pairs in (("validation", validation), ("test", test)):
        for way, beams in (("greedy", 1), ("beam", options.beams)):
            found[way] = translator(pairs.german, beams, options.length_penalty)
            scores[f"{name}_bleu_{way}"] = metric.corpus_score(found[way], [pairs.english]).score
    metrics = {
        **scores,
        "signature": str(metric.get_signature()),
        "beams": options.beams,
        "length_penalty": options.length_penalty,
        "size": asdict(translator.size),
        "parameters": translator.parameters(),
        "epochs": len(history["loss"]),
        "training_seconds": round(history["seconds"][-1]),
        "seed": options.seed,
        "history": history,
        "examples": [
            dict(zip(("german", "translation", "reference"), row, strict=True))
            for row in list(zip(test.german, found["beam"], test.english, strict=True))[:SHOWN]
        ],
    }
    save_figure(folder, "learning_curves", translation_curves(history))
    i = int(np.argmin([abs(len(sentence.split()) - 11) for sentence in test.german]))
    save_figure(folder, "attention", attention_maps(*attention(translator, test.german[i], found["beam"][i])))
    for row in metrics["examples"]:
        print(f"{row['german']}\n    {row['translation']}\n    ({row['reference']})")
    print(
        f"\nBLEU on the test of 2016: {scores['test_bleu_greedy']:.2f} greedy, {scores['test_bleu_beam']:.2f} by beams"
    )
    print(f"Figures, numbers and weights are in {save_results(folder, metrics).parent}")
    return metrics


def translate(options: Options) -> dict:
    """Prints a translation; without a trained network it trains one first."""
    if not options.translate.strip():
        raise DataError("There is nothing to translate: the text is empty.")
    if not has_weights(options.output):
        print("No network has been trained yet: that comes first, once.")
        learn(options, *load_multi30k()[:2])
    (english,) = load_translator(options.output)([options.translate], options.beams, options.length_penalty)
    print(english)
    return {"translation": english}


if __name__ == "__main__":
    command_line(main, Options)
