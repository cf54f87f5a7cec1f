"""How layers, arrays and tables are written down."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import PyTree


def constructor_call(self: Any) -> str:
    """How a dataclass is written down, defaults left out."""
    if not dataclasses.is_dataclass(self):
        return f"{type(self).__name__}()"
    words = []
    for field in dataclasses.fields(self):
        if field.name.startswith("_"):
            continue
        value = getattr(self, field.name)
        if field.default is dataclasses.MISSING:
            words.append(str(value))
        elif value != field.default:
            words.append(f"{field.name}={value}")
    return f"{type(self).__name__}({', '.join(words)})"


def shorten(text: str, length: int) -> str:
    """The text, cut with a mark where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def describe(x: PyTree) -> str:
    """Shape and dtype in words: "float32[32, 784]"; of a tree, those of its leaves."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    if isinstance(x, tuple | list):
        return "(" + ", ".join(map(describe, x)) + ")"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{name}: {describe(value)}" for name, value in x.items()) + "}"
    return type(x).__name__


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns, the first row a heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
