import numpy as np

from experiments.figures import confusion_matrix, filters, learning_curves, misread_digits
from experiments.output import save_figure


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
    weight = np.zeros((4, 3))
    weight[0], weight[1, 1] = [1, 5, 2], 9
    images = [axes.images[0].get_array() for axes in filters(weight, (2, 2)).axes if axes.images]
    np.testing.assert_array_equal(images[0], [[5, 9], [0, 0]])
    assert len(images) == 3
