import numpy as np

from experiments.shared.command_line import save_figure
from experiments.shared.plots import (
    augmentations,
    confusion_matrix,
    feature_maps,
    filters,
    learning_curves,
    misread_digits,
    saliency,
)


def words(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return texts + [axes.get_title() for axes in figure.axes]


def test_the_confusion_matrix_counts_rows_as_truth():
    figure = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), classes=3)
    mistakes = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(mistakes, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert "1 of 4 misread (25.00%)" in words(figure)


def test_the_most_confident_mistake_comes_first():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    figure = misread_digits(np.ones((3, 8, 8)), np.array([0, 1, 1]), probabilities)
    assert words(figure)[:2] == ["1, read as 0\n(80% sure)", "1, read as 0\n(60% sure)"]


def test_no_mistakes_and_errors_of_zero_can_be_drawn(tmp_path):
    none = misread_digits(np.ones((1, 8, 8)), np.array([0]), np.array([[1.0, 0.0]]))
    history = {"loss": [1.0, 0.5], "validation_loss": [1.0, 0.4], "validation_accuracy": [0.9, 1.0]}
    for name, figure in {"none": none, "curves": learning_curves(history)}.items():
        assert save_figure(tmp_path, name, figure).stat().st_size > 1000


def test_filters_show_the_strongest_units_first():
    weight = np.zeros((2, 2, 3))
    weight[0, 0], weight[0, 1, 1] = [1, 5, 2], 9
    images = [axes.images[0].get_array() for axes in filters(weight).axes if axes.images]
    np.testing.assert_array_equal(images[0], [[5, 9], [0, 0]])
    assert len(images) == 3


def test_each_stage_shows_all_its_channels_side_by_side():
    maps = np.arange(6) * np.ones((3, 2, 1))  # channel k is the number k
    figure = feature_maps(np.ones((4, 4)), [maps], [0.25, 0.75])
    digit, stage, classes = figure.axes
    assert digit.images[0].get_array().shape == (4, 4)
    rows = np.repeat([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], 3, axis=0)
    np.testing.assert_array_equal(stage.images[0].get_array(), rows)
    assert [bar.get_width() for bar in classes.patches] == [0.25, 0.75]


def test_a_gradient_stands_under_its_digit():
    digits = np.arange(3)[:, None, None] * np.eye(4)
    figure = saliency(digits, -digits, ["a", "b", "c"], columns=2)
    shown = [axes.images[0].get_array()[0, 0] if axes.images else None for axes in figure.axes]
    assert shown == [0, 1, 0, -1, 2, None, -2, None]
    assert words(figure)[:6] == ["a", "b", "", "", "c", ""]


def test_what_is_drawn_of_a_digit_stands_beside_it():
    originals = np.array([1.0, 2.0])[:, None, None] * np.ones((2, 3, 3))
    figure = augmentations(originals, np.stack([originals + 10, originals + 20]))
    assert [axes.images[0].get_array()[0, 0] for axes in figure.axes] == [1, 11, 21, 2, 12, 22]


def test_the_average_has_a_curve_of_its_own():
    history = {"loss": [1.0], "validation_loss": [1.0], "validation_accuracy": [0.5]}
    history |= {"averaged_loss": [0.5], "averaged_accuracy": [0.75]}
    losses, errors = learning_curves(history).axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation", "averaged weights"]
    assert [float(line.get_ydata()[0]) for line in errors.lines] == [50, 25]
