"""What the suite measures: a `Work` is one formula or one training step, written once, run by every library.

A line of the table is a kind of work with the ratio that it must reach: best peer's time over graphc's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Run = Callable[[], Any]


@dataclass(frozen=True)
class Line:
    """A line of the table. goal: the least ratio of best peer's time over graphc's."""

    title: str
    goal: float


LINES = {
    "elementwise": Line("elementwise chains, 1e5 and 1e7 elements", 1.5),
    "elementwise-small": Line("elementwise chains, 1e3 elements", 4),
    "rows-small": Line("softmax, norms, NLL, mean/var: 64 x 1000", 3),
    "rows": Line("softmax, norms, NLL, mean/var: 4096 x 1024", 1.3),
    "plain": Line("sums and copies of 4M elements", 1.0),
    "matmul-small": Line("matmul + bias + activation, with gradients: 16 to 128, skinny", 2),
    "matmul": Line("matmul + bias + activation, with gradients: 256 to 2048", 1.0),
    "conv-lenet": Line("LeNet's convolutions and depthwise 3x3, with gradients", 2),
    "conv": Line("convolutions 3x3, 1x1, strided, 7x7 stem, with gradients", 1.1),
    "lenet": Line("LeNet training step, batch 64", 2.5),
    "lenet-large": Line("LeNet training step, batch 1000", 2.0),
    "mlp": Line("MLP 784-512-512-10 with Adam, batch 128", 1.3),
    "gpt": Line("GPT training steps with AdamW", 1.4),
    "lstm": Line("LSTM over 64 steps, training step", 1.5),
    "science": Line("scientific loops in NumPy style", 2),
    "small": Line("10 operations on 1 to 100 elements, value and gradient", 3),
    "eager-small": Line("the same, eager, against PyTorch eager", 2),
    "eager-steps": Line("eager LeNet, MLP and GPT steps, against PyTorch eager", 1.0),
}


@dataclass(frozen=True)
class Work:
    """One comparison.

    line: its line of the table. arrays: the data from a generator, NumPy, in the dtype measured.
    formula: `formula(xp, *arrays)` in NumPy's names, for every library. wrt: positions of the arrays whose gradient
    is asked for too (the formula is then a scalar). own: runs that a library does better in another way than by the
    formula, by the library's name (`own["torch"](library, *arrays) -> Run`); None leaves the library out.
    flops, bytes: of one call, as little as any implementation can do: for the physical limit.
    rtol: largest difference from the first library's results, relative to each result's largest element; in float64
    a millionth of it. chaotic: the share of the elements that may differ by more, where one rounding decides a branch.
    """

    name: str
    line: str
    arrays: Callable[[np.random.Generator, np.dtype[Any]], Sequence[np.ndarray]]
    formula: Callable[..., Any] | None = None
    wrt: tuple[int, ...] = ()
    own: Mapping[str, Callable[..., Run] | None] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    flops: float = 0.0
    bytes: float = 0.0
    rtol: float = 2e-4
    chaotic: float = 0.0
    dtype: str = ""  # "float64" where only that is meant
