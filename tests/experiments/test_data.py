import gzip
import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest

from experiments.shared import datasets as data
from experiments.shared.datasets import DataError, DataSet, load, load_mnist

CONTENT = b"\x00\x00\x08\x01" + (5).to_bytes(4, "big") + bytes([3, 1, 4, 1, 5])
PACKED = gzip.compress(CONTENT)
NAME = "labels.gz"


@pytest.fixture
def home(tmp_path):
    """A web server on this machine; returns its folder and its address."""
    folder = tmp_path / "home"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no data folder of one's own."""
    monkeypatch.delenv("JAXBP_DATA", raising=False)
    monkeypatch.setenv("JAXBP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def dataset(*homes):
    return DataSet("numbers", {NAME: hashlib.md5(CONTENT).hexdigest()}, homes)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_own_folder_comes_first_and_is_left_alone(tmp_path, cache, monkeypatch):
    own = tmp_path / "own" / "numbers" / NAME
    own.parent.mkdir(parents=True)
    own.write_bytes(PACKED)
    monkeypatch.setenv("JAXBP_DATA", str(tmp_path / "own"))
    assert load(dataset()) == {NAME: CONTENT}
    assert files(cache) == []


def test_a_file_packed_anew_is_the_same_file(home, cache):
    (home[0] / NAME).write_bytes(gzip.compress(CONTENT, compresslevel=1, mtime=1))
    assert load(dataset(home[1])) == {NAME: CONTENT}


def test_a_download_stays_in_the_cache(home, cache):
    (home[0] / NAME).write_bytes(PACKED)
    load(dataset(home[1]))
    (home[0] / NAME).unlink()
    assert load(dataset(home[1])) == {NAME: CONTENT}
    assert files(cache) == [cache / "numbers" / NAME]


def test_the_mirror_serves_where_the_first_home_fails(home, cache):
    (home[0] / "mirror").mkdir()
    (home[0] / "mirror" / NAME).write_bytes(PACKED)
    assert load(dataset(home[1], f"{home[1]}mirror/")) == {NAME: CONTENT}


BROKEN = {
    "truncated": PACKED[:-12],
    "altered": gzip.compress(CONTENT[:-1] + b"\x09"),
    "garbage": b"<html>Not here</html>",
    "bit_flipped": PACKED[:14] + bytes([PACKED[14] ^ 255]) + PACKED[15:],
    "empty": b"",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_of_ones_own_is_named_in_one_sentence(content, tmp_path, cache, monkeypatch):
    own = tmp_path / "own" / "numbers" / NAME
    own.parent.mkdir(parents=True)
    own.write_bytes(content)
    monkeypatch.setenv("JAXBP_DATA", str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"labels\.gz is truncated or altered") as raised:
        load(dataset())
    assert str(raised.value).count("\n") == 0
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert own.read_bytes() == content


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_download_leaves_nothing_in_the_cache(content, home, cache):
    (home[0] / NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"Could not get numbers/labels\.gz from .*truncated or altered"):
        load(dataset(home[1]))
    assert files(cache) == []


def test_a_broken_file_in_the_cache_is_fetched_anew(home, cache):
    (cache / "numbers").mkdir(parents=True)
    (cache / "numbers" / NAME).write_bytes(PACKED[:-9])
    (home[0] / NAME).write_bytes(PACKED)
    assert load(dataset(home[1])) == {NAME: CONTENT}
    assert (cache / "numbers" / NAME).read_bytes() == PACKED


def test_no_network_is_said_in_one_sentence(cache):
    with pytest.raises(DataError, match=r"ConnectionError.*check the network, or set JAXBP_DATA") as raised:
        load(dataset("http://127.0.0.1:9/"))
    assert raised.value.__context__ is None
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_is_named(home, cache):
    (home[0] / NAME).write_bytes(PACKED)
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="JAXBP_CACHE"):
        load(dataset(home[1]))


def test_mnist_has_its_shapes_and_scale(tiny_mnist):
    (x, t), (test_x, test_t) = load_mnist()
    assert x.shape == (300, 28, 28, 1)
    assert test_x.shape == (60, 28, 28, 1)
    assert (x.dtype, t.dtype, test_t.dtype) == (np.float32, np.int32, np.int32)
    assert (x.min(), x.max()) == (0, 1)
    assert set(t) == set(range(10))


def test_an_idx_file_is_read_by_its_header():
    np.testing.assert_array_equal(data.parse_idx(CONTENT), [3, 1, 4, 1, 5])
    with pytest.raises(DataError, match="no IDX file"):
        data.parse_idx(b"PNG" + CONTENT)


RECORDINGS = {"0_anna_0.wav": b"RIFF one" * 9, "0_anna_1.wav": b"RIFF two" * 9}


def archive(files, folder="digits-1.0", compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in {"README.md": b"about", **files}.items():
            archive.writestr(f"{folder}/{name}", content)
    return file.getvalue()


def spoken(content, tmp_path, monkeypatch):
    (tmp_path / "digits.zip").write_bytes(content)
    monkeypatch.setenv("JAXBP_DATA", str(tmp_path))
    return DataSet("", {"digits.zip": data.digest(RECORDINGS)}, ())


def test_recordings_packed_anew_are_the_same_recordings(tmp_path, monkeypatch):
    packed = archive(dict(reversed(RECORDINGS.items())), "elsewhere", zipfile.ZIP_STORED)
    monkeypatch.setattr(data, "SPOKEN_DIGITS", spoken(packed, tmp_path, monkeypatch))
    found = data.load_spoken_digits()
    assert list(found.items()) == list(RECORDINGS.items())


def test_the_spoken_digits_lie_in_the_data_folder_itself(cache, monkeypatch):
    monkeypatch.setattr(data, "SPOKEN_DIGITS", DataSet("", data.SPOKEN_DIGITS.files, ("http://127.0.0.1:9/",)))
    with pytest.raises(DataError, match=r"Could not get free-spoken-digit-dataset-1\.0\.10\.zip from"):
        data.load_spoken_digits()


PACKED_RECORDINGS = archive(RECORDINGS)
MIDDLE = PACKED_RECORDINGS.index(b"0_anna_0.wav") + len("0_anna_0.wav") + 3
WRONG = {
    "truncated": PACKED_RECORDINGS[:-30],
    "one_missing": archive(dict([*RECORDINGS.items()][:1])),
    "one_altered": archive(RECORDINGS | {"0_anna_1.wav": b"RIFF tvo" * 9}),
    "renamed": archive({"1_anna_0.wav": RECORDINGS["0_anna_0.wav"], "0_anna_1.wav": RECORDINGS["0_anna_1.wav"]}),
    "bit_flipped": PACKED_RECORDINGS[:MIDDLE]
    + bytes([PACKED_RECORDINGS[MIDDLE] ^ 255])
    + PACKED_RECORDINGS[MIDDLE + 1 :],
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_broken_archive_is_named_in_one_sentence(content, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"digits\.zip is truncated or altered") as raised:
        load(spoken(content, tmp_path, monkeypatch))
    assert str(raised.value).count("\n") == 0
