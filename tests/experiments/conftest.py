import gzip
import hashlib

import numpy as np
import pytest

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
