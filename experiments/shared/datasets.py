"""Data sets: found in a folder of your own, in the cache, or at their public homes; verified wherever they came from.

    $JAXBP_DATA/<data set>/<file>      your own copy, never written to
    <cache>/<data set>/<file>          $JAXBP_CACHE, or the user's cache folder (~/.cache/jaxbp on Linux)
    <home>/<file>                      downloaded, verified, and only then put into the cache

What is verified is the MD5 of the unpacked bytes: the same file packed twice gives two archives. Of a zip archive they
are the recordings' names and bytes. MD5 guards against accidents, truncation and mirrors gone astray; it is the sum
under which these old data sets are known.
"""

import gzip
import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pooch
from jaxtyping import Float32, Int32

from experiments.shared.atomic_files import write_atomically


class DataError(RuntimeError):
    """Data that could not be had, in one sentence."""


@dataclass(frozen=True)
class DataSet:
    """A data set: the folder it lies in, the MD5 of each file's unpacked bytes, and the addresses that publish it.

    The folder "" is the data folder itself.
    """

    name: str
    files: Mapping[str, str]
    homes: tuple[str, ...]


MNIST = DataSet(
    name="mnist",
    files={
        "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    },
    homes=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
)
SPOKEN_DIGITS = DataSet(
    name="",
    files={"free-spoken-digit-dataset-1.0.10.zip": "a47bbce9b54711a7e196bfcd517d4cf1"},
    homes=("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10/",),
)

Content = bytes | dict[str, bytes]  # a file's own bytes, or those of an archive's recordings by name
Examples = tuple[Float32[np.ndarray, "n 28 28 1"], Int32[np.ndarray, " n"]]


def load_mnist() -> tuple[Examples, Examples]:
    """MNIST's 60,000 training and 10,000 test examples: images [n, 28, 28, 1] from 0 to 1, labels [n] from 0 to 9.

    Raises DataError where a file is truncated or altered, or can't be downloaded.
    """
    images, labels, test_images, test_labels = (parse_idx(content) for content in load(MNIST).values())
    return (as_pixels(images), labels.astype(np.int32)), (as_pixels(test_images), test_labels.astype(np.int32))


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Bytes [n, height, width] as float32 [n, height, width, 1] from 0 to 1."""
    return (images / np.float32(255))[..., None]


def load_spoken_digits() -> dict[str, bytes]:
    """The 3,000 WAV files of the Free Spoken Digit Dataset by name, {digit}_{speaker}_{index}.wav, in sorted order.

    Raises DataError where the archive is truncated or altered, or can't be downloaded.
    """
    (recordings,) = load(SPOKEN_DIGITS).values()
    return recordings


def load(dataset: DataSet) -> dict[str, Content]:
    """The unpacked bytes of each of its files, from the first place that has it."""
    return {name: load_file(dataset, name) for name in dataset.files}


def load_file(dataset: DataSet, name: str) -> Content:
    """The unpacked and verified bytes of one file; a download stays in the cache."""
    if folder := os.environ.get("JAXBP_DATA"):
        own = Path(folder) / dataset.name / name
        if own.exists():
            return verified(dataset, name, read(own), own)
    cached = cache_folder() / dataset.name / name
    if cached.exists():
        try:
            return verified(dataset, name, read(cached), cached)
        except DataError:
            cached.unlink()  # no good to anybody: fetch it anew
    return download(dataset, name, cached)


def download(dataset: DataSet, name: str, cached: Path) -> Content:
    """Fetches a file from the first home that has it whole, and puts it into the cache."""
    file, failures = Path(dataset.name) / name, []
    for home in dataset.homes:
        try:
            packed = fetch(home + name)
            content = verified(dataset, name, packed, home + name)
        except OSError as error:
            failures.append(f"{home} ({type(error).__name__})")
        except DataError:
            failures.append(f"{home} (truncated or altered)")
        else:
            keep(cached, packed)
            return content
    raise DataError(
        f"Could not get {file} from {' or '.join(failures)}: check the network, or set JAXBP_DATA to a folder that "
        f"holds {file}."
    )


def keep(cached: Path, packed: bytes) -> None:
    """Puts a file into the cache."""
    try:
        write_atomically(cached, packed)
    except OSError as error:
        folder = cached.parent
        raise DataError(
            f"The cache {folder} can't be written ({error.strerror}): set JAXBP_CACHE to another."
        ) from None


def fetch(address: str, timeout: float = 30) -> bytes:
    """The bytes at an address, with a progress bar; OSError where they can't be had within the timeout (seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "download"
        pooch.HTTPDownloader(progressbar=True, timeout=timeout)(address, str(path), None)
        return path.read_bytes()


def read(path: Path) -> bytes:
    """The bytes of a file that is there."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None


def verified(dataset: DataSet, name: str, packed: bytes, place: Path | str) -> Content:
    """The unpacked bytes, if they are the data set's own."""
    problem = f"{place} is truncated or altered"
    try:
        content = unpack(packed)
    except (EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{problem}: it doesn't unpack; delete it, and it will be downloaded again.") from None
    found = digest(content)
    if found != dataset.files[name]:
        raise DataError(
            f"{problem}: its unpacked bytes have the MD5 {found} instead of {dataset.files[name]}; delete it, and it "
            "will be downloaded again."
        )
    return content


def unpack(packed: bytes) -> Content:
    """What was packed by gzip; the recordings in a zip archive, by their names without folders; else the same bytes."""
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if not packed.startswith(b"PK"):
        return packed
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        recordings = sorted(name for name in archive.namelist() if name.endswith(".wav"))
        return {PurePosixPath(name).name: archive.read(name) for name in recordings}


def digest(content: Content) -> str:
    """The MD5 of the bytes; of several files, of each one's name, a zero byte and its bytes, one after the other."""
    parts = [content] if isinstance(content, bytes) else [n.encode() + b"\0" + content[n] for n in sorted(content)]
    return hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("JAXBP_CACHE") or pooch.os_cache("jaxbp"))


def parse_idx(content: bytes) -> np.ndarray:
    """An array from LeCun's IDX format: two zero bytes, type 8 (byte), the rank, each size as 4 bytes, the elements."""
    if content[:3] != b"\x00\x00\x08":
        raise DataError("This is no IDX file of bytes: it doesn't begin with 0, 0, 8.")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
