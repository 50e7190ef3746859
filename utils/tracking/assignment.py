"""Which track takes which detection: the best one-to-one assignment of a similarity matrix.

scipy.optimize.linear_sum_assignment finds the same (tests/tracking/test_assignment.py), for 20
persons in 4 us instead of 30 to 90. That is no reason to install SciPy's 40 MB on a Jetson, which
nothing else needs at run time.
"""

import collections
import math
from typing import List, Sequence, Tuple

import numpy as np


def assign(similarity: np.ndarray, threshold: float) -> Tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns with the largest sum of similarities.

    Args:
        similarity: (T, D) float, larger is more alike, at least 0.
        threshold: pairs below it never match.

    Returns the rows and the columns of the pairs, both (P,) int64, sorted by row. Pairs that may
    match are sparse in video, so each connected group of them is solved on its own.
    """
    possible = np.where(similarity >= threshold, similarity, 0)
    edges = possible > 0
    rows, columns = np.nonzero(edges)
    alone = (edges.sum(1)[rows] == 1) & (edges.sum(0)[columns] == 1)
    pairs: List[Tuple[int, int]] = list(zip(rows[alone].tolist(), columns[alone].tolist()))
    for group in _groups(rows[~alone].tolist(), columns[~alone].tolist()):
        block = possible[np.ix_(*group)]
        transposed = block.shape[0] > block.shape[1]
        chosen = _shortest_paths((block.T if transposed else block).tolist())
        for a, b in enumerate(chosen):
            row, column = (b, a) if transposed else (a, b)
            if block[row, column] > 0:
                pairs.append((group[0][row], group[1][column]))
    pairs.sort()
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _groups(rows: Sequence[int], columns: Sequence[int]) -> List[Tuple[List[int], List[int]]]:
    """Connected groups of the bipartite graph with an edge for each (row, column)."""
    columns_of, rows_of = collections.defaultdict(list), collections.defaultdict(list)
    for row, column in zip(rows, columns):
        columns_of[row].append(column)
        rows_of[column].append(row)
    groups = []
    while columns_of:
        todo = [next(iter(columns_of))]
        group_rows: List[int] = []
        group_columns: List[int] = []
        while todo:
            row = todo.pop()
            if row not in columns_of:
                continue
            group_rows.append(row)
            for column in columns_of.pop(row):
                if column in rows_of:
                    group_columns.append(column)
                    todo += rows_of.pop(column)
        groups.append((group_rows, group_columns))
    return groups


def _shortest_paths(gain: Sequence[Sequence[float]]) -> List[int]:
    """Column of each row with the largest sum of gains; no more rows than columns.

    Shortest augmenting paths with potentials (Jonker and Volgenant, Computing 38, 1987), in plain
    Python: groups have a few rows, where NumPy calls would cost more than the arithmetic.
    """
    columns = len(gain[0])
    row_of = [-1] * columns  # row that holds each column
    row_price, column_price = [0.0] * len(gain), [0.0] * columns
    for start in range(len(gain)):
        shortest = [math.inf] * columns
        came_from = [-1] * columns  # column before this one on the path, -1: the start
        done = [False] * columns
        row, column = start, -1
        while True:
            nearest, step = -1, math.inf
            for j in range(columns):
                if done[j]:
                    continue
                length = -gain[row][j] - row_price[row] - column_price[j]
                if length < shortest[j]:
                    shortest[j], came_from[j] = length, column
                if shortest[j] < step:
                    nearest, step = j, shortest[j]
            row_price[start] += step
            for j in range(columns):
                if done[j]:
                    row_price[row_of[j]] += step
                    column_price[j] -= step
                else:
                    shortest[j] -= step
            done[nearest], column = True, nearest
            if row_of[column] < 0:
                break
            row = row_of[column]
        while column >= 0:  # pass the columns along the path on to the row before
            before = came_from[column]
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    chosen = [-1] * len(gain)
    for j, row in enumerate(row_of):
        if row >= 0:
            chosen[row] = j
    return chosen
