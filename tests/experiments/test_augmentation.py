import jax
import numpy as np

from experiments.augmentation import shift


def test_a_shift_moves_by_a_pixel_at_most_and_loses_nothing_inside():
    images = np.zeros((100, 5, 5, 1), np.float32)
    images[:, 2, 2] = 1
    moved = np.asarray(shift(jax.random.key(0), images))[..., 0]
    assert moved.sum() == 100
    places = {(int(row), int(column)) for _, row, column in np.argwhere(moved)}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_zeros_move_in_where_an_image_moves_away_from_the_edge():
    moved = np.asarray(shift(jax.random.key(0), np.ones((50, 3, 3, 1), np.float32)))
    assert set(moved.sum((1, 2, 3)).tolist()) == {4.0, 6.0, 9.0}
