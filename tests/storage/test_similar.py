"""The most similar rows, in blocks of any order."""

from __future__ import annotations

import numpy as np

from tasks.storage.similar import most_similar

ROWS = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0.7, 0.7]], np.float16)


def test_blocks_give_what_the_whole_gives():
    rows = np.random.default_rng(0).normal(size=(200, 8))
    queries = np.random.default_rng(1).normal(size=(5, 6))  # of the first six columns
    order = np.random.default_rng(2).permutation(200)
    blocks = [(places, rows[places]) for places in np.array_split(order, 7)]
    index = rows[:, :6] / np.linalg.norm(rows[:, :6], axis=1, keepdims=True)
    expected = np.argsort(-(queries @ index.T), axis=1)[:, :4]
    np.testing.assert_array_equal(most_similar(queries, blocks, 4), expected)


def test_a_row_is_not_its_own_neighbour_and_few_rows_are_all_there_are():
    block = [(np.arange(5), ROWS)]
    found = most_similar(ROWS[[0, 4]], block, 2, own=np.array([0, -1]))
    assert [places.tolist() for places in found] == [[1, 4], [4, 1]]
    assert len(most_similar(ROWS[:1], block, 9, own=np.array([0]))[0]) == 4
    assert most_similar(ROWS[:1], [], 3)[0].tolist() == []
