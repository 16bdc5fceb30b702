"""The data: 8 x 8 pictures of the digits 0 to 9, drawn from a bitmap font, shifted, blurred and noisy."""

from __future__ import annotations

import numpy as np

SIZE = 8
CLASSES = 10
# Five columns by seven rows, one string per digit, row by row.
FONT = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)


def glyph(digit: int) -> np.ndarray:
    """One clean digit: float array (8, 8), values 0 or 1."""
    rows = np.array([[float(bit) for bit in row] for row in FONT[digit].split()])
    picture = np.zeros((SIZE, SIZE))
    picture[:7, 1:6] = rows
    return picture


def sample(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` noisy pictures as rows of 64 values, and their digits. The same seed gives the same data."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pictures = np.empty((count, SIZE * SIZE))
    for index, digit in enumerate(labels):
        picture = np.roll(glyph(int(digit)), (rng.integers(-1, 2), rng.integers(-1, 3)), axis=(0, 1))
        picture = picture * rng.uniform(0.5, 1.0) + rng.normal(0, 0.25, picture.shape)
        pictures[index] = picture.clip(0, 1).ravel()
    return pictures, labels
