"""German to English: an encoder–decoder transformer, trained on 29,000 captions of pictures (Multi30k).

    python -m experiments.translation --translate "Zwei Hunde spielen im Schnee."

prints a translation of yours; the network for it is trained once and kept.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from experiments.files import write_atomically
from experiments.output import command_line
from experiments.subwords import learn_subwords
from experiments.text_data import load_multi30k
from experiments.translator import Recipe, Size, encoded, train
from experiments.weights import save_weights

SUBWORDS = "subwords.json"


@dataclass(frozen=True)
class Options:
    """The network, and how it is trained."""

    size: Size = field(default_factory=Size)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    """Of the initial weights, the order and the dropout."""
    output: Path = Path("results/translation")
    """The folder for figures, numbers and weights."""


def main(options: Options | None = None) -> dict:
    """Trains, and keeps the network after every epoch."""
    options = options or Options()
    training, validation, _ = load_multi30k()
    tokenizer = learn_subwords(training.german + training.english, options.size.vocabulary)
    size = options.size
    model, folder = size.model(), options.output

    def keep(params, history):
        epoch = len(history["loss"])
        config = {"size": asdict(size), "epochs": epoch}
        save_weights(folder, params, config, {SUBWORDS: tokenizer.to_str().encode()})
        write_atomically(folder / "history.json", (json.dumps(history, indent=2) + "\n").encode())
        print(epoch, {name: round(values[-1], 4) for name, values in history.items()}, flush=True)

    train(
        model,
        options.recipe,
        encoded(tokenizer, training),
        encoded(tokenizer, validation),
        seed=options.seed,
        on_epoch=keep,
    )
    return {}


if __name__ == "__main__":
    command_line(main, Options)
