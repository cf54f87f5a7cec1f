"""What every experiment does at its ends: reads its options, and writes figures and numbers to a folder."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.shared.atomic_files import write_atomically
from experiments.shared.datasets import DataError


def command_line(main: Callable[[Any], dict], options: type) -> None:
    """Runs `main` with options from the command line; data that can't be had end it with one sentence."""
    try:
        main(tyro.cli(options, description=sys.modules[main.__module__].__doc__))
    except DataError as error:
        sys.exit(f"{error}")


def save_results(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `metrics` as folder/results.json, whole or not at all."""
    path = Path(folder) / "results.json"
    write_atomically(path, (json.dumps(metrics, indent=2) + "\n").encode())
    return path


def save_figure(folder: Path, name: str, figure: Figure) -> Path:
    """Draws a figure as folder/name.png, without a display."""
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)
    return path
