"""A multilayer perceptron's training step with Adam, in PyTorch's layout of weights.

The result is the loss of the third step, which rests on two updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tests.bench.training import BETAS, EPSILON, RATE, graphc_training, jax_training, started, torch_training
from tests.bench.work import Run, Work


@dataclass(frozen=True)
class Size:
    """widths: of the input, the hidden layers and the output."""

    widths: tuple[int, ...]
    batch: int

    def flops(self) -> float:
        """Of a step: three times the products of the forward pass, but for the input's gradient."""
        products = [m * n for m, n in pairwise(self.widths)]
        return 2.0 * self.batch * (3 * sum(products) - products[0])

    def arrays(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> list[np.ndarray]:
        x = rng.normal(size=(self.batch, self.widths[0])).astype(dtype)
        return [x, rng.integers(0, self.widths[-1], self.batch)]


def _parameters(size: Size, dtype: Any) -> dict[str, np.ndarray]:
    """The numbers that every library starts from: weights (out, in) and biases."""
    rng = np.random.default_rng(1)
    found = {}
    for layer, (m, n) in enumerate(pairwise(size.widths)):
        for name, shape in (("weight", (n, m)), ("bias", (n,))):
            found[f"{2 * layer}.{name}"] = rng.uniform(-(m**-0.5), m**-0.5, shape).astype(dtype)
    return found


def _model(nn: Any, size: Size) -> Any:
    layers = [layer for m, n in pairwise(size.widths) for layer in (nn.Linear(m, n), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _graphc(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        gc = library.module
        model = _model(gc.nn, size).to(x.dtype)
        model.load_state_dict(_parameters(size, x.numpy().dtype))
        optimizer = gc.optim.Adam(model.parameters(), lr=RATE)
        return graphc_training(library, model, optimizer, x, y)

    return make


def _torch(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        torch = library.module
        model = _model(torch.nn, size).to(x.dtype)
        model.load_state_dict({n: torch.from_numpy(a) for n, a in _parameters(size, x.numpy().dtype).items()})
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
        return torch_training(library, model, optimizer, x, y)

    return make


def _jax(size: Size) -> Callable[..., Run]:
    """Weights (in, out), which its products like better."""

    def loss_of(jax: Any, p: dict[str, Any], x: Any, y: Any) -> Any:
        layers = len(size.widths) - 1
        for layer in range(layers):
            x = x @ p[f"{2 * layer}.weight"] + p[f"{2 * layer}.bias"]
            x = x if layer == layers - 1 else jax.nn.relu(x)
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()

    def make(library: Any, x: Any, y: Any) -> Run:
        jax = library.module
        parameters = {name: jax.numpy.array(a.T) for name, a in _parameters(size, x.dtype).items()}
        return jax_training(jax, lambda p, x, y: loss_of(jax, p, x, y), parameters, x, y, decay=0.0)

    return make


def _numpy(size: Size) -> Callable[..., Run]:
    """Derived by hand, updates in place."""

    def make(library: Any, x: Any, y: Any) -> Run:
        p = [a if a.ndim == 1 else np.ascontiguousarray(a.T) for a in _parameters(size, x.dtype).values()]
        first, second = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p]
        everyone, layers, (decay1, decay2), steps = np.arange(len(y)), len(size.widths) - 1, BETAS, 0

        def gradients(x: Any, y: Any) -> Any:
            inputs = [x]
            for layer in range(layers):
                z = inputs[-1] @ p[2 * layer]
                z += p[2 * layer + 1]
                inputs.append(z if layer == layers - 1 else np.maximum(z, 0, out=z))
            z = inputs.pop()
            z -= z.max(1, keepdims=True)
            e = np.exp(z)
            total = e.sum(1, keepdims=True)
            loss = (np.log(total[:, 0]) - z[everyone, y]).mean()
            dz = e / total
            dz[everyone, y] -= 1
            dz *= x.dtype.type(1 / len(y))
            found = []
            for layer in reversed(range(layers)):
                found += [dz.sum(0), inputs[layer].T @ dz]
                if layer:
                    dz = dz @ p[2 * layer].T
                    dz *= inputs[layer] > 0
            return loss, found[::-1]

        def step(x: Any, y: Any) -> Any:
            nonlocal steps
            steps += 1
            loss, found = gradients(x, y)
            kind = x.dtype.type
            root, rate = kind((1 - decay2**steps) ** 0.5), kind(RATE / (1 - decay1**steps))
            for a, m, v, g in zip(p, first, second, found, strict=True):
                m *= kind(decay1)
                m += kind(1 - decay1) * g
                v *= kind(decay2)
                v += kind(1 - decay2) * (g * g)
                a -= rate * m / (np.sqrt(v) / root + kind(EPSILON))
            return loss

        return started(step, x, y)

    return make


def _work(size: Size) -> Work:
    own = {
        "graphc": _graphc(size),
        "graphc eager": None,
        "torch": _torch(size),
        "torch.compile": _torch(size),
        "jax": _jax(size),
        "numpy": _numpy(size),
    }
    return Work(f"MLP {'-'.join(map(str, size.widths))} Adam batch {size.batch}", "mlp", size.arrays, own=own,
                flops=size.flops())  # fmt: skip


WORKS = [_work(Size((784, 512, 512, 10), 128))]
SMALL = [_work(Size((13, 21, 37, 5), 11))]
