"""Train the model of a release and write it to a file; run when the image is built.

v1 is a linear classifier after a few steps, v2 a network with one hidden layer: a better model of the same
task. `broken` is v1's file cut in half, as an interrupted upload leaves it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from digits import CLASSES, sample

TRAIN, HELD_OUT = 4000, 2000
HIDDEN = 96
STEPS, BATCH, RATE = 2500, 128, 0.15
LINEAR_STEPS = 60


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def train_linear(pictures: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Softmax regression by a few full-batch gradient steps."""
    weights, bias = np.zeros((pictures.shape[1], CLASSES)), np.zeros(CLASSES)
    target = np.eye(CLASSES)[labels]
    for _ in range(LINEAR_STEPS):
        error = softmax(pictures @ weights + bias) - target
        weights -= 0.5 * pictures.T @ error / len(pictures)
        bias -= 0.5 * error.mean(axis=0)
    return {"w1": weights, "b1": bias}


def train_network(pictures: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """One hidden layer of rectified units, stochastic gradient descent."""
    rng = np.random.default_rng(seed)
    w1 = rng.normal(0, np.sqrt(2 / pictures.shape[1]), (pictures.shape[1], HIDDEN))
    b1 = np.zeros(HIDDEN)
    w2 = rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES))
    b2 = np.zeros(CLASSES)
    target = np.eye(CLASSES)[labels]
    for _ in range(STEPS):
        chosen = rng.integers(0, len(pictures), BATCH)
        inputs = pictures[chosen]
        hidden = np.maximum(inputs @ w1 + b1, 0)
        error = (softmax(hidden @ w2 + b2) - target[chosen]) / BATCH
        back = (error @ w2.T) * (hidden > 0)
        w2 -= RATE * hidden.T @ error
        b2 -= RATE * error.sum(axis=0)
        w1 -= RATE * inputs.T @ back
        b1 -= RATE * back.sum(axis=0)
    return {"w1": w1, "b1": b1, "w2": w2, "b2": b2}


def predict(model: dict[str, np.ndarray], pictures: np.ndarray) -> np.ndarray:
    """Class probabilities, one row for each picture."""
    scores = pictures @ model["w1"] + model["b1"]
    if "w2" in model:
        scores = np.maximum(scores, 0) @ model["w2"] + model["b2"]
    return softmax(scores)


def fit(release: str) -> dict[str, np.ndarray]:
    """The release's trained model with its accuracy on pictures it has not seen."""
    pictures, labels = sample(TRAIN, seed=1)
    model = train_network(pictures, labels) if release == "v2" else train_linear(pictures, labels)
    unseen, truth = sample(HELD_OUT, seed=2)
    accuracy = float((predict(model, unseen).argmax(axis=1) == truth).mean())
    kind = "digits-network" if release == "v2" else "digits-linear"
    return {**model, "accuracy": np.array(accuracy), "name": np.array(kind)}


def main(release: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    model = fit(release)
    np.savez(target, allow_pickle=False, **model)
    if release == "broken":
        whole = target.read_bytes()
        target.write_bytes(whole[: len(whole) // 2])
    print(f"{release}: {model['name']}, accuracy {float(model['accuracy']):.3f}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
