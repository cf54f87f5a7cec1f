import gzip
import hashlib
import io
import zipfile

import numpy as np
import pytest
import soundfile

from experiments import data


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
