import gzip
import hashlib
import io
import zipfile

import numpy as np
import pytest
import soundfile

from experiments.shared import datasets as data
from experiments.shared import text_datasets as text_data


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def tiny_mnist(tmp_path_factory):
    """A data set in MNIST's clothes: class k is a bright bar in rows 2k to 2k + 3, on noise."""
    rng = np.random.default_rng(0)
    contents = {}
    for prefix, count in (("train", 300), ("t10k", 60)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 100, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] = 255
        contents[f"{prefix}-images-idx3-ubyte.gz"] = idx(images)
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels)
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    for name, content in contents.items():
        (folder / "mnist" / name).write_bytes(gzip.compress(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(data, "MNIST", data.DataSet("mnist", sums, ()))
        monkeypatch.setenv("JAXBP_DATA", str(folder))
        yield


def wav(samples, rate=8000, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("digits/README.md", "not a recording")
        for name, content in files.items():
            archive.writestr(f"digits/recordings/{name}", content)
    return file.getvalue()


@pytest.fixture(scope="session")
def tiny_recordings():
    """Two speakers, one higher than the other, who say digit d as a hum of a pitch of its own; six takes each."""
    rng = np.random.default_rng(0)
    files = {}
    for speaker, pitch in (("anna", 1.1), ("bert", 1.0)):
        for digit in range(10):
            for take in range(6):
                t = np.arange(rng.integers(1200, 2400)) / 8000
                hum = 0.3 * np.sin(2 * np.pi * pitch * (250 + 300 * digit) * t)
                files[f"{digit}_{speaker}_{take}.wav"] = wav(hum + 0.003 * rng.standard_normal(len(t)))
    return files


@pytest.fixture(scope="module")
def tiny_spoken_digits(tiny_recordings, tmp_path_factory):
    """The tiny recordings in the clothes of the Free Spoken Digit Dataset."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "digits.zip").write_bytes(zipped(tiny_recordings))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(data, "SPOKEN_DIGITS", data.DataSet("", {"digits.zip": data.digest(tiny_recordings)}, ()))
        monkeypatch.setenv("JAXBP_DATA", str(folder))
        yield


NOUNS = {"Hund": "dog", "Kind": "child", "Mann": "man", "Vogel": "bird"}
VERBS = {"läuft": "runs", "schläft": "sleeps", "lacht": "laughs", "wartet": "waits"}


@pytest.fixture(scope="session")
def tiny_pairs():
    """Sentences of three words, which translate word by word."""
    german = [f"Ein {noun} {verb}." for noun in NOUNS for verb in VERBS]
    english = [f"A {noun} {verb}." for noun in NOUNS.values() for verb in VERBS.values()]
    return text_data.Pairs(german, english)


def as_own_data(folder, contents, dataset):
    """Writes files, and gives the data set that they make."""
    (folder / dataset.name).mkdir()
    for name, content in zip(dataset.files, contents, strict=True):
        packed = gzip.compress(content) if name.endswith(".gz") else content
        (folder / dataset.name / name).write_bytes(packed)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in zip(dataset.files, contents, strict=True)}
    return data.DataSet(dataset.name, sums, ())


@pytest.fixture(scope="module")
def tiny_texts(tiny_pairs, tmp_path_factory):
    """Captions, reviews and a play, in the clothes of the real ones."""
    folder = tmp_path_factory.mktemp("texts")
    sides = ["".join(f"{line}\n" for line in side).encode() for side in tiny_pairs]
    words = {1: ("fine", "lovely", "great"), 0: ("dull", "awful", "weak")}
    reviews = [
        f"{label} a {word} {thing} .\n" for label in (1, 0) for word in words[label] for thing in ("film", "plot")
    ]
    play = "To be, or not to be: that is the question.\n" * 40
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, contents in (
            ("MULTI30K", sides * 3),
            ("SST2", ["".join(reviews * 2).encode()] * 3),
            ("SHAKESPEARE", [play.encode()]),
        ):
            monkeypatch.setattr(text_data, name, as_own_data(folder, contents, getattr(text_data, name)))
        monkeypatch.setenv("JAXBP_DATA", str(folder))
        yield
