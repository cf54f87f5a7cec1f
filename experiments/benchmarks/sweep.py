"""Vision layers over a spread of shapes: forward and both gradients against jax.grad of the same forward pass.

jax.grad gets it in plain lax: convolutions as XLA has them, means as sums over windows. Both take turns, as in
`pairwise_timing.py`. Printed with the slowest first; "memory" is jaxbp's temporary memory, as a share of jax.grad's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from jax import lax

import jaxbp
from experiments.benchmarks.pairwise_timing import measure
from experiments.benchmarks.step_and_layer import LayerGradients
from experiments.shared.command_line import command_line, save_results
from jaxbp.core.text import table
from jaxbp.layers.spatial.pooling import counts


@dataclass(frozen=True)
class Options:
    """What to time, and how long."""

    only: str = "*"
    """Rows whose name fits this pattern, as in "Conv(*"."""
    rounds: int = 15
    """Paired samples of each engine, some 40 milliseconds each."""
    output: Path = Path("results/sweep")
    """The folder for results.json."""


def main(options: Options | None = None) -> list[dict]:
    """Measures, prints the table; returns the numbers."""
    options = options or Options()
    rows = [measure(work, "jaxbp", "jax.grad", options.rounds) for work in sweep() if fnmatch(work.name, options.only)]
    rows.sort(key=lambda row: row["ratio"]["median"])
    lines = [("layer and input", "jaxbp ms", "jax.grad / jaxbp", "temp MB", "memory")]
    for row in rows:
        ratio, memory = row["ratio"], row["temporary_bytes"]
        lines.append(
            (
                row["workload"],
                f"{row['milliseconds']['jaxbp']:.2f}",
                f"{ratio['median']:.2f} ({ratio['q1']:.2f}-{ratio['q3']:.2f})",
                f"{memory['jaxbp'] / 1e6:.2f}",
                f"{memory['jaxbp'] / memory['jax.grad']:.3f}" if memory["jax.grad"] else "",
            )
        )
    print(table(lines))
    save_results(options.output, {"rows": rows})
    return rows


def sweep() -> Iterator[LayerGradients]:
    """Every row."""
    for layer, *shapes in LAYERS:
        for shape in shapes:
            for training in (True, False) if isinstance(layer, jaxbp.BatchNorm) else (False,):
                name = f"{layer} {'x'.join(map(str, shape))}{', training' if training else ''}"
                yield LayerGradients(name, layer, shape, True, training, plain_mean(layer))


def plain_mean(layer: jaxbp.Layer):
    """An average pool in plain lax; None for other layers."""
    if not isinstance(layer, jaxbp.AvgPool):
        return None

    def mean(params, x):
        grids = layer._grids(x)
        padding = ((0, 0), *grids.padding, (0, 0))
        total = lax.reduce_window(x, 0.0, lax.add, (1, *grids.window, 1), (1, *grids.stride, 1), padding)
        return total / counts(layer, grids)

    return mean


Conv, Transpose, Max, Avg = jaxbp.Conv, jaxbp.ConvTranspose, jaxbp.MaxPool, jaxbp.AvgPool
IMAGES, PLANES = (32, 16, 16, 32), (32, 28, 28, 1)
SEQUENCES, VOLUMES = (32, 256, 32), (8, 12, 12, 12, 16)

LAYERS = [
    (Conv(64, (5,)), SEQUENCES, (16, 1024, 4)),
    (Conv(32, (3,), 2), SEQUENCES),
    (Conv(32, (3,), dilation=4), SEQUENCES),
    (Conv(32, (7,), groups=32), SEQUENCES),
    (Conv(64, (3,), groups=4, padding="VALID"), SEQUENCES),
    (Conv(32, (3, 3)), IMAGES, (32, 32, 32, 3), (32, 32, 32, 16), (8, 56, 56, 64), (32, 8, 8, 128), PLANES),
    (Conv(128, (3, 3)), (16, 14, 14, 128)),
    (Conv(256, (3, 3)), (32, 8, 8, 256)),
    (Conv(512, (3, 3)), (16, 7, 7, 512), (32, 4, 4, 512)),
    (Conv(8, (3, 3)), (32, 32, 32, 8), (64, 28, 28, 4), (32, 64, 64, 8), (64, 32, 32, 16)),
    (Conv(16, (3, 3)), (4, 64, 64, 16), (32, 64, 64, 16), (16, 16, 16, 8)),
    (Conv(6, (5, 5)), (128, 28, 28, 1)),
    (Conv(16, (5, 5), padding="VALID"), (128, 14, 14, 6)),
    (Conv(64, (5, 5)), (32, 14, 14, 32), PLANES),
    (Conv(64, (7, 7), 2), (8, 64, 64, 3)),
    (Conv(32, (3, 3), padding="VALID"), IMAGES),
    (Conv(64, (3, 3), 2), IMAGES, (16, 32, 32, 16)),
    (Conv(64, (1, 1)), IMAGES, (16, 14, 14, 256)),
    (Conv(64, (1, 1), 2), IMAGES),
    (Conv(32, (3, 3), dilation=2), IMAGES),
    (Conv(32, (3, 3), dilation=8), (32, 8, 8, 32)),
    (Conv(64, (3, 3), dilation=4), (8, 32, 32, 64)),
    (Conv(32, (3, 3), groups=32), IMAGES, (8, 56, 56, 32)),
    (Conv(64, (3, 3), groups=32), IMAGES),
    (Conv(32, (3, 3), 2, groups=32), IMAGES),
    (Conv(128, (3, 3), groups=128), (8, 14, 14, 128)),
    (Conv(32, (3, 3), groups=4), IMAGES),
    (Conv(16, (3, 3, 3)), VOLUMES, (8, 16, 16, 16, 1)),
    (Conv(16, (3, 3, 3), 2), VOLUMES),
    (Conv(16, (3, 3, 3), padding="VALID", groups=2), VOLUMES),
    (Transpose(16, (4,), 2), SEQUENCES),
    (Transpose(32, (3,)), SEQUENCES),
    (Transpose(16, (4, 4), 2), (32, 14, 14, 32), (32, 7, 7, 64)),
    (Transpose(32, (3, 3)), IMAGES),
    (Transpose(16, (3, 3), 2), IMAGES),
    (Transpose(16, (2, 2), 2), IMAGES),
    (Transpose(1, (5, 5), 2), (32, 14, 14, 32)),
    (Transpose(32, (3, 3), 2, groups=4), IMAGES),
    (Transpose(16, (3, 3), padding="VALID", dilation=2), IMAGES),
    (Transpose(8, (4, 4, 4), 2), (8, 6, 6, 6, 16)),
    (Max((2,)), SEQUENCES),
    (Max((2, 2)), IMAGES, (128, 28, 28, 32), (8, 112, 112, 64)),
    (Max((3, 3), 2), (32, 32, 32, 32)),
    (Max((3, 3), 2, "SAME"), (8, 56, 56, 64)),
    (Max((3, 3), 1, "SAME"), IMAGES),
    (Max((2, 2, 2)), VOLUMES),
    (Avg((2,)), SEQUENCES),
    (Avg((2, 2)), IMAGES, (128, 28, 28, 32), (8, 112, 112, 64)),
    (Avg((3, 3), 2), (32, 32, 32, 32)),
    (Avg((3, 3), 1, "SAME"), IMAGES, (8, 56, 56, 64)),
    (Avg((7, 7)), (32, 28, 28, 32)),
    (Avg((2, 2, 2)), VOLUMES),
    (jaxbp.AdaptiveAvgPool((4, 4)), IMAGES, (8, 56, 56, 64)),
    (jaxbp.AdaptiveAvgPool((7, 5)), IMAGES),
    (jaxbp.GlobalAvgPool(), IMAGES, (8, 56, 56, 64), SEQUENCES),
    (jaxbp.BatchNorm(), (128, 800), IMAGES, (32, 32, 32, 32), (8, 56, 56, 64)),
    (jaxbp.LayerNorm(), (128, 800), (32, 128, 256), (8, 512, 768), (512, 64)),
    (jaxbp.RMSNorm(), (128, 800), (32, 128, 256), (8, 512, 768), (512, 64)),
    (jaxbp.GroupNorm(8), IMAGES, (8, 56, 56, 64), (32, 128, 256)),
    (jaxbp.InstanceNorm(), IMAGES, (8, 56, 56, 64), SEQUENCES),
]

if __name__ == "__main__":
    command_line(main, Options)
