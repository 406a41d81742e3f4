"""Random graphs for the tests of IR and passes: movement, reductions and arithmetic, of small and of empty shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

import graphc as gc
from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant, fresh_input
from graphc.ops import elementwise as ew
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.types import DType, TensorType, bool_, float32, float64, int32, int64

Draw = Callable[[Any], Any]
Array = Any

MOST = 400  # elements of a value
UNARY = ("negative", "abs", "sign", "floor", "exp", "tanh", "sin", "sqrt", "log1p", "copy")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "strong_multiply")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, math.inf, -math.inf, math.nan, 1e-300, 0.5)

extents = st.integers(0, 4)
shapes = st.lists(extents, max_size=4).map(tuple).filter(lambda s: math.prod(s) <= MOST)


def _axes(draw: Draw, x: Node) -> tuple[int, ...]:
    return tuple(a for a in range(x.ndim) if draw(st.booleans()))


def _reshape(draw: Draw, x: Node) -> Node:
    """Another shape of as many elements: sizes merged, ones put in or left out."""
    shape: list[int] = []
    for n in x.shape:
        if draw(st.integers(0, 3)) == 0:
            shape.append(1)
        if n == 1 and draw(st.booleans()):
            continue
        if shape and draw(st.integers(0, 2)) == 0:
            shape[-1] *= n
        else:
            shape.append(n)
    return mv.reshape(x, shape)  # type: ignore[no-any-return]


def _slice(draw: Draw, x: Node) -> Node:
    start = [draw(st.integers(0, n)) for n in x.shape]
    stop = [draw(st.integers(a, n)) for a, n in zip(start, x.shape, strict=True)]
    return mv.slice_(x, start, stop, [draw(st.integers(1, 3)) for _ in start])  # type: ignore[no-any-return]


def _pad(draw: Draw, x: Node) -> Node | None:
    low, high, interior = ([draw(st.integers(0, 2)) for _ in x.shape] for _ in range(3))
    value = draw(st.sampled_from((0, 1.5, -0.0, math.nan, -math.inf))) if x.dtype.kind == "f" else 0
    inside = interior if draw(st.booleans()) else [0] * x.ndim
    return mv.pad(x, low, high, inside, value) if x.type.size < MOST // 4 else None


def _broadcast(draw: Draw, x: Node) -> Node | None:
    lead = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    shape = (*lead, *(draw(st.integers(0, 3)) if n == 1 else n for n in x.shape))
    return mv.broadcast_to(x, shape) if math.prod(shape) <= MOST and len(shape) <= 5 else None


def _concat(draw: Draw, x: Node, pool: Sequence[Node]) -> Node | None:
    if not x.ndim:
        return None
    axis = draw(st.integers(0, x.ndim - 1))

    def fits(y: Node) -> bool:
        return (
            y.dtype is x.dtype
            and y.ndim == x.ndim
            and all(m == n or i == axis for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)))
        )

    parts = [x, *draw(st.lists(st.sampled_from([y for y in pool if fits(y)]), max_size=2))]
    joined: Node = mv.concat(parts, axis)
    return joined if joined.type.size <= MOST else None


def _reduce(draw: Draw, x: Node) -> Node | None:
    name = draw(st.sampled_from(("sum", "max", "min", "sum_to")))
    axes = _axes(draw, x)
    if name == "sum_to":
        kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
        return mv.sum_to(x, kept) if x.dtype is not bool_ else None
    if name != "sum" and any(x.shape[a] == 0 for a in axes):
        return None
    return getattr(red, name)(x, axes, draw(st.booleans()))  # type: ignore[no-any-return]


def _product(draw: Draw, x: Node, pool: Sequence[Node]) -> Node | None:
    fits = [y for y in pool if y.ndim >= 2 and y.dtype is x.dtype and x.ndim >= 2 and x.shape[-1] == y.shape[-2]]
    if not fits or x.dtype is bool_:
        return None
    try:
        product: Node = gc.matmul(x, draw(st.sampled_from(fits)))
    except gc.ShapeError:
        return None
    return product if product.type.size <= MOST else None


def _binary(draw: Draw, x: Node, pool: Sequence[Node]) -> Node | None:
    y = draw(st.sampled_from(pool))
    if x.dtype is not y.dtype or x.dtype is bool_:
        return None
    name = draw(st.sampled_from(BINARY if x.dtype.kind == "f" else BINARY[:3]))
    try:
        result: Node = getattr(ew, name)(x, y)
    except gc.ShapeError:
        return None
    if draw(st.integers(0, 3)) == 0 and result.dtype.kind == "f":
        result = ew.where(ew.less(result, 1), result, draw(st.sampled_from(SPECIAL)))
    return result if result.type.size <= MOST else None


def _step(draw: Draw, pool: Sequence[Node], exact: bool) -> Node | None:
    x = draw(st.sampled_from(pool))
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return _reshape(draw, x)
    if kind == 1:
        return mv.permute_dims(x, draw(st.permutations(range(x.ndim))))  # type: ignore[no-any-return]
    if kind == 2:
        return _slice(draw, x)
    if kind == 3:
        return _pad(draw, x)
    if kind == 4:
        return mv.flip(x, _axes(draw, x))  # type: ignore[no-any-return]
    if kind == 5:
        return _broadcast(draw, x)
    if kind == 6:
        return _concat(draw, x, pool)
    if kind == 7:
        return _reduce(draw, x)
    if kind == 8:
        return _product(draw, x, pool)
    if kind == 9:
        return ew.astype(x, draw(st.sampled_from((float32, float64, int64)))) if not exact else None
    if kind == 10 and x.dtype.kind == "f":
        name = draw(st.sampled_from(UNARY[:3] if exact else UNARY))
        return getattr(ew, name)(x)  # type: ignore[no-any-return]
    return _binary(draw, x, pool)


@st.composite
def graphs(draw: Draw, most: int = 14, numbers: Sequence[float] = SPECIAL, polynomial: bool = False) -> Graph:
    """A closed graph of up to `most` steps over one to three inputs and constants.

    numbers: what constants are made of. polynomial: only operations that tame values keep tame.
    """
    dtypes = (float64,) if polynomial else (float32, float64, float64, int32, bool_)
    types = [TensorType(draw(shapes), draw(st.sampled_from(dtypes))) for _ in range(draw(st.integers(1, 3)))]
    inputs = [fresh_input(f"x{i}", type) for i, type in enumerate(types)]
    number = draw(st.sampled_from(numbers))
    pool = [*inputs, constant(number, float64), constant(np.full(draw(shapes), number), float64)]
    for _ in range(draw(st.integers(1, most))):
        node = _step(draw, pool, polynomial)
        if node is not None:
            pool.append(node)
    used = {n for node in pool for n in node.inputs}
    return Graph(inputs, [n for n in pool if n not in used and n not in inputs] or [pool[-1]])


def arguments(graph: Graph, seed: int, special: bool = True) -> list[Array]:
    """Numbers for a graph's inputs; special: with zeros of both signs, inf and nan among them."""
    rng = np.random.default_rng(seed)
    return [_numbers(rng, n.type.shape, n.dtype, special) for n in graph.inputs]


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, special: bool) -> Array:
    if dtype.kind != "f":
        return rng.integers(0, 2 if dtype is bool_ else 5, shape).astype(dtype.numpy)
    array = np.asarray(rng.normal(size=shape)).astype(dtype.numpy)
    if special:
        array = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), array).astype(dtype.numpy)
    return array


def assert_same_bits(got: Sequence[Array], want: Sequence[Array]) -> None:
    """Equal shapes, dtypes and numbers, zeros by their sign, any NaN for any NaN."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
        if a.dtype.kind == "f":
            known = ~np.isnan(a)
            np.testing.assert_array_equal(np.signbit(a)[known], np.signbit(b)[known])
