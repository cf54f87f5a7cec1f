import json

import pytest

from experiments.shared.atomic_files import write_atomically
from experiments.shared.command_line import save_results


def test_results_replace_what_was_there(tmp_path):
    save_results(tmp_path, {"a": 1})
    assert json.loads(save_results(tmp_path, {"a": 2}).read_text()) == {"a": 2}


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text is no bytes")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
