"""Spoken digits: recordings of six speakers, heard one by one or in strings.

    isolated    one digit, by a convolutional network
    strings     1 to 7 digits of one speaker with pauses in between, by a bidirectional recurrent network and CTC

Each is tested on recordings that training never heard: a random tenth of every speaker's takes, the tenth that the data
set calls its test (takes 0 to 4), or all that a held-out speaker says. Training recordings are changed anew in each
epoch: speed, microphone, noise, and masks in time and frequency.

    python -m experiments.spoken_digits --transcribe FILE.wav

prints the digits that are heard in a recording of yours; the network for it is trained once and kept.
"""

import enum
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.plots import confusion_matrix
from experiments.shared.weights import has_weights, load_weights, save_weights
from experiments.spoken_digits import connected as connected_digits
from experiments.spoken_digits import isolated as isolated_digits
from experiments.spoken_digits.plots import alignment, errors_by_speaker, gradient_through_time, spectrograms
from experiments.spoken_digits.recordings import Recordings, read_recording, spoken_digits
from experiments.spoken_digits.training import Trained, outputs_of, train


class What(enum.Enum):
    """What is to be heard."""

    isolated = isolated_digits.TASK
    strings = connected_digits.TASK


class Split(enum.Enum):
    """What training never hears: a random tenth, the data set's own test takes, or one speaker after the other."""

    random = "random"
    official = "official"
    speaker = "speaker"


@dataclass(frozen=True)
class Options:
    """What to hear, and what to hold out."""

    what: What = What.isolated
    """Single digits, or strings of 1 to 7."""
    split: Split = Split.random
    """What is held out for the test."""
    speakers: tuple[str, ...] = ()
    """With --split speaker: whom to hold out, one after the other; everybody unless given."""
    epochs: int | None = None
    """How often the training recordings are heard; the task's own number unless given."""
    augment: bool = True
    """Whether training recordings are changed in each epoch."""
    seed: int = 0
    """Of the initial weights, the order, the changes and the dropout."""
    split_seed: int = 0
    """Of the random tenth, and of the strings to be tested on."""
    transcribe: Path | None = None
    """A recording of yours: any rate, mono or stereo; what is heard in it is printed, and nothing else is done."""
    output: Path = Path("results/spoken_digits")
    """The folder for figures, numbers and weights."""


def held_out(recordings: Recordings, options: Options) -> dict[str, np.ndarray]:
    """Which recordings are the test, true or false for each, by the name of the run."""
    if options.split is Split.official:
        return {"official": recordings.takes < 5}
    if options.split is Split.speaker:
        everybody = [str(name) for name in np.unique(recordings.speakers)]
        if unknown := set(options.speakers) - set(everybody):
            raise ValueError(f"nobody is called {sorted(unknown)[0]}: the speakers are {', '.join(everybody)}")
        return {name: recordings.speakers == name for name in options.speakers or everybody}
    rng, test = np.random.default_rng(options.split_seed), np.zeros(len(recordings.digits), bool)
    for name in np.unique(recordings.speakers):
        for digit in range(10):
            own = np.flatnonzero((recordings.speakers == name) & (recordings.digits == digit))
            test[rng.permutation(own)[: max(1, len(own) // 10)]] = True
    return {"random": test}


def main(options: Options | None = None) -> dict:
    """Trains and tests once for each held-out part, draws, and returns the numbers; or transcribes a recording."""
    options = options or Options()
    if options.transcribe is not None:
        return transcribe(options)
    recordings = spoken_digits()
    folder = options.output / f"{options.what.name}_{options.split.value}"
    runs = [hear(name, recordings, test, folder, options) for name, test in held_out(recordings, options).items()]
    rates = [run["error_rate"] for run in runs]
    metrics = {
        "what": options.what.name,
        "split": options.split.value,
        "error_rate": float(np.mean(rates)),
        "error_rate_standard_deviation": float(np.std(rates, ddof=1)) if len(rates) > 1 else None,
        "worst_error_rate": max(rates),
        "augmented": options.augment,
        "seed": options.seed,
        "split_seed": options.split_seed,
        "runs": runs,
    }
    if len(runs) > 1:
        save_figure(
            folder, "errors_by_speaker", errors_by_speaker({run["held_out"]: run["error_rate"] for run in runs})
        )
    print(f"\nError rate: {metrics['error_rate']:.2%}, at worst {metrics['worst_error_rate']:.2%}")
    print(f"Figures, numbers and weights are in {save_results(folder, metrics).parent}")
    return metrics


def hear(name: str, recordings: Recordings, test: np.ndarray, folder: Path, options: Options) -> dict:
    """Trains on what isn't the test, tests, draws, and saves the weights."""
    task = options.what.value
    epochs = task.epochs if options.epochs is None else options.epochs
    training, unheard = recordings.chosen(~test), recordings.chosen(test)
    title = f"without {name}" if options.split is Split.speaker else name
    trained = train(task, training, epochs=epochs, seed=options.seed, augment=options.augment, title=title)
    x, targets = task.plain(np.random.default_rng(options.split_seed), unheard)
    outputs = outputs_of(task.model, trained.params, x)
    wrong, total = task.mistakes(outputs, targets)
    print(
        f"{title}: {wrong} mistakes in {total} digits ({wrong / total:.2%}), trained in {trained.seconds:.0f} seconds"
    )
    save_weights(folder / name, trained.params, task.config)
    if options.what is What.isolated:
        draw_isolated(folder / name, unheard, outputs, targets)
    else:
        draw_strings(folder / name, trained, x, targets)
    return {
        "held_out": name,
        "error_rate": wrong / total,
        "mistakes": wrong,
        "digits": total,
        "training_recordings": len(training.samples),
        "epochs": epochs,
        "seconds": round(trained.seconds, 1),
        "losses": trained.losses,
    }


def draw_isolated(folder: Path, unheard: Recordings, outputs: np.ndarray, labels: np.ndarray) -> None:
    """What was taken for what, and what the network gets to see."""
    save_figure(folder, "confusion_matrix", confusion_matrix(labels, outputs.argmax(-1)))
    few = unheard.chosen(np.array([np.flatnonzero(unheard.digits == digit)[0] for digit in range(10)]))
    drawn, _ = isolated_digits.draw(np.random.default_rng(0), few, augment=True)
    pictures = isolated_digits.plain(np.random.default_rng(0), few)[0]
    figure = spectrograms(np.asarray(pictures)[..., 0], np.asarray(drawn)[..., 0], few.digits, isolated_digits.FRONT)
    save_figure(folder, "spectrograms", figure)


def draw_strings(folder: Path, trained: Trained, x, targets) -> None:
    """One string with its alignment, and from where the gradient of one of its digits comes."""
    i = int(np.argmax(np.asarray(targets.label_lengths) == min(5, int(np.max(targets.label_lengths)))))
    seen = connected_digits.look(trained.params, x, targets, i)
    save_figure(folder, "alignment", alignment(seen, connected_digits.FRONT))
    save_figure(folder, "gradient_through_time", gradient_through_time(seen, connected_digits.FRONT))


def transcribe(options: Options) -> dict:
    """Prints the digits in a recording; without a trained network it trains one first."""
    samples, share = read_recording(options.transcribe)
    if share > 0.01:
        print(
            f"{options.transcribe} is clipped ({share:.1%} of its samples are cut off): what is heard may be wrong; "
            "record it softer.",
            file=sys.stderr,
        )
    folder = options.output / "strings_random"
    if not has_weights(folder / "random"):
        print("No network has been trained yet: that comes first, once.")
        main(Options(What.strings, epochs=options.epochs, seed=options.seed, output=options.output))
    params = load_weights(folder / "random", connected_digits.shapes(), connected_digits.TASK.config)
    digits = connected_digits.transcribe(params, samples)
    print(f"Heard: {' '.join(map(str, digits))}" if digits else "Heard no digit.")
    return {"heard": digits, "clipped": share}


if __name__ == "__main__":
    command_line(main, Options)
