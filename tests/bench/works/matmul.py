"""Dense layers, activation(x @ w + b), forward and with gradients in x, w, b: squares, skinny ones, vectors, batches.

Named by rows x columns x depth: (rows, depth) @ (depth, columns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.work import Run, Work


def relu_layer(xp: Any, x: Any, w: Any, b: Any) -> Any:
    return xp.maximum(x @ w + b, 0)


def tanh_layer(xp: Any, x: Any, w: Any, b: Any) -> Any:
    return xp.tanh(x @ w + b)


def weighted(layer: Callable[..., Any]) -> Callable[..., Any]:
    """A scalar whose gradients are the layer's backward pass with `g` as cotangent."""
    return lambda xp, x, w, b, g: (layer(xp, x, w, b) * g).sum()


@dataclass(frozen=True)
class Layer:
    """(rows, depth) @ (depth, columns), for `batch` of them at once if not 0. formula: relu_layer or tanh_layer."""

    rows: int
    columns: int
    depth: int
    batch: int = 0
    formula: Callable[..., Any] = relu_layer

    @property
    def name(self) -> str:
        activation = self.formula.__name__.split("_")[0]
        return f"{f'{self.batch} of ' * (self.batch > 0)}{self.rows}x{self.columns}x{self.depth} {activation}"

    def arrays(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> Sequence[np.ndarray]:
        lead = (self.batch,) * (self.batch > 0)
        shapes = ((*lead, self.rows, self.depth), (*lead, self.depth, self.columns), (self.columns,))
        scales = (1.0, self.depth**-0.5, 1.0)
        return [(scale * rng.normal(size=shape)).astype(dtype) for shape, scale in zip(shapes, scales, strict=True)]

    def arrays_and_cotangent(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> Sequence[np.ndarray]:
        """The cotangent is positive: the value, a sum over all elements, keeps its digits."""
        x, w, b = self.arrays(rng, dtype)
        return [x, w, b, rng.uniform(0.5, 1.5, (*x.shape[:-1], self.columns)).astype(dtype)]

    @property
    def flops(self) -> float:
        return 2.0 * max(1, self.batch) * self.rows * self.columns * self.depth

    @property
    def elements(self) -> float:
        """Of both factors and the result."""
        each = self.rows * self.depth + self.depth * self.columns + self.rows * self.columns
        return float(max(1, self.batch) * each)

    # ------------------------------------------------------------------ what libraries do better than the formula

    def torch(self, torch: Any) -> Callable[..., Any]:
        """Bias added by the product's own function."""
        product = torch.baddbmm if self.batch else torch.addmm
        activation = torch.relu if self.formula is relu_layer else torch.tanh
        return lambda x, w, b: activation(product(b, x, w))

    def torch_forward(self, library: Any, *arrays: Any) -> Run:
        call = library.function(self.torch(library.module))
        return lambda: call(*arrays)

    def torch_gradient(self, library: Any, *arrays: Any) -> Run:
        layer = self.torch(library.module)
        call = library.value_and_grad(lambda x, w, b, g: (layer(x, w, b) * g).sum(), (0, 1, 2))
        return lambda: call(*arrays)

    def numpy_forward(self, library: Any, x: Any, w: Any, b: Any) -> Run:
        """No temporaries."""

        def run() -> Any:
            y = x @ w
            y += b
            return np.maximum(y, 0, out=y) if self.formula is relu_layer else np.tanh(y, out=y)

        return run

    def numpy_gradient(self, library: Any, x: Any, w: Any, b: Any, g: Any) -> Run:
        """Derived by hand."""
        forward = self.numpy_forward(library, x, w, b)

        def run() -> Any:
            y = forward()
            total = np.vdot(y, g)
            dz = g * (y > 0) if self.formula is relu_layer else g * (1 - y * y)
            return total, dz @ w.mT, x.mT @ dz, dz.reshape(-1, self.columns).sum(0)

        return run

    def works(self, line: str, itemsize: int = 4) -> list[Work]:
        own = {"torch": self.torch_forward, "torch.compile": self.torch_forward, "numpy": self.numpy_forward}
        own_gradient = {
            "torch": self.torch_gradient, "torch.compile": self.torch_gradient, "numpy": self.numpy_gradient,
        }  # fmt: skip
        return [
            Work(
                self.name, line, self.arrays, self.formula, own=own, flops=self.flops, bytes=itemsize * self.elements,
                rtol=1e-4,
            ),
            Work(
                f"{self.name} with gradients", line, self.arrays_and_cotangent, weighted(self.formula), (0, 1, 2),
                own=own_gradient, flops=3 * self.flops, bytes=2 * itemsize * self.elements, rtol=1e-3,
                chaotic=0.01 * (self.formula is relu_layer),  # a sum that rounds to the other side of 0
            ),
        ]  # fmt: skip


SKINNY = (
    Layer(64, 500, 800),
    Layer(64, 10, 500),
    Layer(20, 36864, 25),
    Layer(50, 4096, 500),
    Layer(1, 800, 500),
    Layer(1000, 1, 300),
    Layer(16, 16, 16, batch=64),
    Layer(64, 64, 32, batch=64, formula=tanh_layer),
)
SQUARES = (*(Layer(n, n, n) for n in (16, 32, 64, 128)), Layer(100, 100, 100, formula=tanh_layer))
LARGE = (*(Layer(n, n, n) for n in (256, 512, 1024, 2048)), Layer(1000, 300, 700, formula=tanh_layer))

WORKS = [
    *(work for layer in (*SQUARES, *SKINNY) for work in layer.works("matmul-small")),
    *(work for layer in LARGE for work in layer.works("matmul")),
]
SMALL = [
    work
    for layer in (
        Layer(37, 29, 41), Layer(5, 333, 7, formula=tanh_layer), Layer(1, 19, 33), Layer(21, 1, 50),
        Layer(9, 11, 13, batch=3), Layer(130, 131, 127),
    )
    for work in layer.works("matmul-small")
]  # fmt: skip
