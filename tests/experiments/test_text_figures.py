import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.shared.plots import SIGNED
from experiments.shared.text_plots import coloured, words_heat


def test_text_flows_in_rows_and_each_piece_has_its_ground():
    axes = Figure().subplots()
    free = coloured(axes, ["good ", "and ", "bad\n", "end"], np.array([1.0, 0.5, 0.0, 0.5]), SIGNED, 10)
    assert free == 3
    places = [(text.get_text(), *text.get_position()) for text in axes.texts]
    assert [place[:2] for place in places] == [("good ", 0), ("and ", 5), ("bad⏎", 0), ("end", 0)]
    assert [int(place[2]) for place in places] == [0, 0, 1, 2]
    grounds = [to_hex(patch.get_facecolor()) for patch in axes.patches]
    assert grounds == [to_hex(SIGNED(shade)) for shade in (1.0, 0.5, 0.0, 0.5)]


def test_no_word_of_a_sentence_is_lost():
    words = [f"word{i}" for i in range(40)]
    figure = words_heat([words, ["one"]], [np.linspace(-1, 1, 40), np.zeros(1)], ["a", "b"], "title")
    shown = [text.get_text().strip() for text in figure.axes[0].texts]
    assert [text for text in shown if text.startswith("word")] == words
    assert {"a", "b", "one"} <= set(shown)
