import numpy as np
import pytest

from experiments.shared import text_datasets as text_data
from experiments.shared.datasets import DataError
from experiments.translation.subwords import BEGIN, END, PADDING, UNKNOWN, encode, learn_subwords


def test_every_data_set_is_read_as_it_is_published(tiny_texts, tiny_pairs):
    training, validation, test = text_data.load_multi30k()
    assert training == validation == test == tiny_pairs
    training, _, _ = text_data.load_sst2()
    assert training.sentences[:2] == ["a fine film .", "a fine plot ."]
    np.testing.assert_array_equal(np.bincount(training.labels), [12, 12])
    assert text_data.load_shakespeare().startswith("To be, or not to be")


def test_languages_of_different_length_are_refused(monkeypatch):
    contents = dict.fromkeys(text_data.MULTI30K.files, b"one\ntwo\n") | {"val.en.gz": b"one\n"}
    monkeypatch.setattr(text_data, "load", lambda dataset: contents)
    with pytest.raises(DataError, match="not as many lines"):
        text_data.load_multi30k()


def test_a_sentence_may_hold_what_ends_lines_elsewhere():
    assert text_data.lines("a\u2028b\nc\n".encode()) == ["a\u2028b", "c"]
    assert text_data.labelled(["1 a b", "0 c"]).sentences == ["a b", "c"]


def test_subwords_give_the_text_back_and_tell_what_they_do_not_know(tiny_pairs):
    tokenizer = learn_subwords([*tiny_pairs.german, *tiny_pairs.english], 80)
    assert tokenizer.get_vocab_size() <= 80
    special = [tokenizer.token_to_id(f"<{name}>") for name in ("padding", "begin", "end", "unknown")]
    assert special == [PADDING, BEGIN, END, UNKNOWN]
    for text in (*tiny_pairs.german, "Eine Art Aal."):
        (row,) = encode(tokenizer, [text])
        assert UNKNOWN not in row or "Eine" in text
        assert tokenizer.decode(row) == text or UNKNOWN in row
    (row,) = encode(tokenizer, ["Ein Жук läuft."])
    assert UNKNOWN in row
    assert encode(tokenizer, ["  "]) == [[]]


def test_frequent_words_are_one_subword_and_signs_stand_alone(tiny_pairs):
    tokenizer = learn_subwords(tiny_pairs.german, 300)
    assert tokenizer.encode("Ein Hund läuft.").tokens == ["▁Ein", "▁Hund", "▁läuft", "."]
