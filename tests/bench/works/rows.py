"""Row operations: softmax, logsumexp, cross-entropy, layer and batch normalisation, mean and variance over any axes.

Every library does them in its best form: its own function where it has one, else the formula in NumPy's names. What
has a gradient is given the result's cotangent, so nobody multiplies and sums only to have something to differentiate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.bench.work import Run, Work

Formula = Callable[..., Any]
LIBRARIES = {"graphc": "graphc", "torch": "torch", "torch.compile": "torch", "jax": "jax"}


def forward(formulas: Mapping[str, Callable[[Any], Formula]]) -> dict[str, Callable[..., Run] | None]:
    """Runs of a library's own function. formulas: by module name, from the module to a function of its arrays."""

    def runs(make: Callable[[Any], Formula]) -> Callable[..., Run]:
        def run(library: Any, *arrays: Any) -> Run:
            call = library.function(make(library.module))
            return lambda: call(*arrays)

        return run

    return {name: runs(formulas[module]) for name, module in LIBRARIES.items() if module in formulas}


def pulled(wrt: Sequence[int], formulas: Mapping[str, Callable[[Any], Formula]]) -> dict[str, Any]:
    """As forward(), and the cotangents of the arrays `wrt`; the last array is the result's cotangent."""

    def graphc(library: Any, *arrays: Any) -> Run:
        f = formulas["graphc"](library.module)
        call = library.function(_with_vjp(library.module.vjp, f, wrt))
        return lambda: call(*arrays)

    def jax(library: Any, *arrays: Any) -> Run:
        call = library.function(_with_vjp(library.module.vjp, formulas["jax"](library.module), wrt))
        return lambda: call(*arrays)

    def torch(library: Any, *arrays: Any) -> Run:
        f = formulas["torch"](library.module)
        call = library.compile(f) if library.name == "torch.compile" else f
        *given, cotangent = arrays
        for i in wrt:
            given[i].requires_grad = True

        def run() -> Any:
            for i in wrt:
                given[i].grad = None
            y = call(*given)
            y.backward(cotangent)
            return (y, *(given[i].grad for i in wrt))

        return run

    return {"graphc": graphc, "jax": jax, "torch": torch, "torch.compile": torch, "numpy": None, "pytensor": None}


def _with_vjp(vjp: Any, f: Formula, wrt: Sequence[int]) -> Formula:
    def both(*arrays: Any) -> Any:
        *given, cotangent = arrays

        def inner(*some: Any) -> Any:
            full = list(given)
            for i, x in zip(wrt, some, strict=True):
                full[i] = x
            return f(*full)

        y, pull = vjp(inner, *(given[i] for i in wrt))
        return (y, *pull(cotangent))

    return both


# ------------------------------------------------------------------------------------------------ formulas


def softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def logsumexp(xp: Any, x: Any) -> Any:
    top = xp.max(x, axis=-1, keepdims=True)
    return xp.log(xp.sum(xp.exp(x - top), axis=-1)) + top[:, 0]


def mean_var(axis: Any) -> Formula:
    def both(xp: Any, x: Any) -> Any:
        return xp.mean(x, axis=axis), xp.var(x, axis=axis)

    return both


def _functional(call: Callable[..., Any]) -> dict[str, Callable[[Any], Formula]]:
    """`call(F, *arrays)` of graphc and PyTorch, whose functions have the same names and arguments."""
    return {
        "graphc": lambda module: lambda *arrays: call(module.nn.functional, *arrays),
        "torch": lambda module: lambda *arrays: call(module.nn.functional, *arrays),
    }


def _normalise(jax: Any, x: Any, axes: Any, eps: float = 1e-5) -> Any:
    mean = jax.numpy.mean(x, axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jax.numpy.var(x, axes, keepdims=True) + eps)


def _columns(x: Any, value: Any) -> Any:
    return value.reshape(1, -1, *[1] * (x.ndim - 2))


CROSS_ENTROPY = {
    **_functional(lambda F, x, target: F.cross_entropy(x, target)),
    "jax": lambda jax: (
        lambda x, t: -jax.numpy.mean(jax.numpy.take_along_axis(jax.nn.log_softmax(x), t[:, None], axis=1))
    ),
}
LAYER_NORM = {
    **_functional(lambda F, x, w, b: F.layer_norm(x, x.shape[-1:], w, b)),
    "jax": lambda jax: lambda x, w, b: _normalise(jax, x, -1) * w + b,
}
BATCH_NORM = {
    **_functional(lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True)),
    "jax": lambda jax: lambda x, w, b: _normalise(jax, x, (0, *range(2, x.ndim))) * _columns(x, w) + _columns(x, b),
}
SOFTMAX = {
    **_functional(lambda F, x: F.softmax(x, -1)),
    "jax": lambda jax: jax.nn.softmax,
}
LOGSUMEXP = {
    "graphc": lambda gc: lambda x: gc.logsumexp(x, axis=-1),
    "torch": lambda torch: lambda x: torch.logsumexp(x, -1),
    "jax": lambda jax: lambda x: jax.scipy.special.logsumexp(x, -1),
}


def _mean_var(axis: Any) -> dict[str, Callable[[Any], Formula]]:
    def torch(module: Any) -> Formula:
        return lambda x: tuple(reversed(module.var_mean(x, axis, correction=0)))

    return {"torch": torch}


def _logits(rows: int, columns: int) -> Any:
    return lambda rng, dtype: [rng.normal(size=(rows, columns)).astype(dtype) * 3]


def _labelled(rows: int, columns: int) -> Any:
    return lambda rng, dtype: [
        rng.normal(size=(rows, columns)).astype(dtype) * 3,
        rng.integers(0, columns, rows),
        np.ones((), dtype),
    ]


def _normed(*shape: int, channels: int) -> Any:
    return lambda rng, dtype: [
        rng.normal(size=shape).astype(dtype),
        *(rng.normal(size=shape[channels]).astype(dtype) for _ in range(2)),
        rng.normal(size=shape).astype(dtype),
    ]


def _works(line: str, rows: int, columns: int, images: tuple[int, int, int, int]) -> list[Work]:
    tail = f"{rows} x {columns}"
    size = rows * columns * 4
    pictures = int(np.prod(images)) * 4
    shape = " x ".join(map(str, images))
    return [
        Work(f"softmax {tail}", line, _logits(rows, columns), softmax, own=forward(SOFTMAX), bytes=2 * size),
        Work(f"logsumexp {tail}", line, _logits(rows, columns), logsumexp, own=forward(LOGSUMEXP), bytes=size),
        Work(
            f"cross-entropy forward+backward {tail}", line, _labelled(rows, columns),
            own=pulled((0,), CROSS_ENTROPY), bytes=2 * size,
        ),
        Work(
            f"layer_norm forward+backward {tail}", line, _normed(rows, columns, channels=1),
            own=pulled((0, 1, 2), LAYER_NORM), bytes=4 * size,
        ),
        Work(
            f"batch_norm forward+backward {tail}", line, _normed(rows, columns, channels=1),
            own=pulled((0, 1, 2), BATCH_NORM), bytes=4 * size,
        ),
        Work(
            f"batch_norm forward+backward {shape}", line, _normed(*images, channels=1),
            own=pulled((0, 1, 2), BATCH_NORM), bytes=4 * pictures,
        ),
        *(
            Work(
                f"mean and var, axis {axis}, {tail}", line, _logits(rows, columns), mean_var(axis),
                own=forward(_mean_var(axis)), bytes=size,
            )
            for axis in (0, 1, None)
        ),
        Work(
            f"mean and var, axes (0, 2, 3), {shape}", line,
            lambda rng, dtype: [rng.normal(size=images).astype(dtype)], mean_var((0, 2, 3)),
            own=forward(_mean_var((0, 2, 3))), bytes=pictures,
        ),
    ]  # fmt: skip


WORKS = [
    *_works("rows-small", 64, 1000, (8, 16, 25, 20)),
    *_works("rows", 4096, 1024, (64, 64, 32, 32)),
]
SMALL = _works("rows-small", 13, 37, (3, 5, 4, 7))
