"""How far transcripts are from the truth: edits (insertions, deletions, substitutions) by rapidfuzz."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

Sentence = Sequence[Hashable]  # labels, characters or words


def sentences(labels: Any, lengths: Any) -> list[list[int]]:
    """Padded labels [n, t] and their lengths [n] as lists."""
    return [row[:length].tolist() for row, length in zip(np.asarray(labels), np.asarray(lengths), strict=True)]


def error_rate(heard: Sequence[Sentence], said: Sequence[Sentence]) -> float:
    """The least number of edits that make what was heard what was said, per label said; more than 1 is possible."""
    total = sum(map(len, said))
    if total == 0:
        raise ValueError(f"an error rate needs at least one label, but all of {len(said)} sentences are empty")
    return sum(Levenshtein.distance(a, b) for a, b in zip(heard, said, strict=True)) / total


def sentence_error_rate(heard: Sequence[Sentence], said: Sequence[Sentence]) -> float:
    """The share of sentences with any error."""
    if not said:
        raise ValueError("a sentence error rate needs at least one sentence")
    return sum(list(a) != list(b) for a, b in zip(heard, said, strict=True)) / len(said)
