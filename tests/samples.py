"""Operands to test every primitive with: the one table that tests of all modes walk.

`samples(primitive)` makes operands from what a record says of itself: an elementwise one has as many operands as
derivative rules, of the dtypes that its `infer` takes; so has a reduction. Only operations with attributes
of their own have an entry in `SPECIAL`. A new elementwise operation or reduction needs no line here.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.errors import GraphcError
from graphc.ops import PRIMITIVES
from graphc.primitive import Fact, Primitive
from graphc.types import DTYPES, DType, TensorType, bool_, dtype_of, float32, float64, int32, int64

Array = Any


@dataclass(frozen=True)
class Sample:
    """arrays: operands. smooth: the operation is differentiable in a neighbourhood of them (no ties, no kinks)."""

    label: str
    arrays: tuple[Array, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(TensorType(a.shape, dtype_of(a.dtype)) for a in self.arrays)

    @property
    def differentiable(self) -> bool:
        """Whether finite differences can say something: float64 operands with elements, at a smooth point."""
        floats = [a for a in self.arrays if a.dtype.kind == "f"]
        return self.smooth and bool(floats) and all(a.dtype == np.float64 for a in floats)

    def __repr__(self) -> str:
        types = ", ".join(map(str, self.types))
        return f"{self.label}({types})" + "".join(f" {k}={v}" for k, v in self.attrs.items())


def computable() -> list[Primitive]:
    """Every primitive that has numbers of its own."""
    return [p for p in PRIMITIVES.values() if not p.facts & Fact.SYMBOLIC]


def samples(primitive: Primitive) -> list[Sample]:
    """Operands for a primitive, the same at each call. Raises LookupError if nothing is known about it."""
    rng = np.random.default_rng(zlib.crc32(primitive.name.encode()))
    if primitive.name in SPECIAL:
        found = list(SPECIAL[primitive.name](rng))
    elif primitive.facts & Fact.ELEMENTWISE:
        found = list(_elementwise(primitive, rng))
    elif primitive.facts & Fact.REDUCTION:
        found = list(_reduction(primitive, rng))
    else:
        found = []
    if not found:
        raise LookupError(f"tests/samples.py has no samples of {primitive.name}: add it to SPECIAL")
    return found


# ------------------------------------------------------------------------------------------- numbers


def random(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType = float64, low: float = -2.0) -> Array:
    """Numbers of magnitude 0.2 to 2, all different, so that nothing is at a kink or a tie."""
    size = int(np.prod(shape))
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "i":
        return rng.integers(-4 if low < 0 else 1, 5, shape).astype(dtype.numpy)
    spread = 0.2 + 1.8 * (rng.permutation(size) + rng.uniform(0.2, 0.8, size)) / max(size, 1)
    sign = rng.choice([-1.0, 1.0], size) if low < 0 else 1.0
    return (spread * sign).reshape(shape).astype(dtype.numpy)


SPECIALS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e30, -1e30, 1e-30, 1e-42, 88.0, -103.0]


def views(array: Array) -> Iterator[tuple[str, Array]]:
    """The same numbers, lying in memory in other orders."""
    yield "transposed", np.asarray(array.T, order="C").T
    wide = np.repeat(array, 2, axis=-1)
    yield "strided", wide[..., ::2]
    yield "backwards", np.ascontiguousarray(array[..., ::-1])[..., ::-1]


# --------------------------------------------------------------------------------------- by kind


UNARY: list[tuple[tuple[int, ...], ...]] = [((),), ((0,),), ((1,),), ((7,),), ((3, 5),), ((2, 0, 3),), ((2, 1, 17),)]
BINARY: list[tuple[tuple[int, ...], ...]] = [
    ((), ()),
    ((5,), ()),
    ((3, 5), (3, 5)),
    ((3, 1), (1, 4)),
    ((2, 3), (3,)),
    ((0, 3), (1, 3)),
    ((1,), (2, 1, 1)),
    ((2, 1, 7), (3, 1)),
]
TERNARY: list[tuple[tuple[int, ...], ...]] = [
    ((), (), ()),
    ((3, 1), (4,), ()),
    ((2, 3), (2, 3), (2, 3)),
    ((0,), (1,), ()),
]
SHAPES = {1: UNARY, 2: BINARY, 3: TERNARY}


def accepts(primitive: Primitive, *types: TensorType, **attrs: Any) -> bool:
    """Whether the record's own rule takes these operands."""
    try:
        primitive.infer(*types, **attrs)
    except (GraphcError, TypeError):
        return False
    return True


def _signatures(primitive: Primitive) -> Iterator[tuple[DType, ...]]:
    """The dtypes of operands that an elementwise primitive takes."""
    rules = primitive.partials if primitive.partials is not None else primitive.vjp
    assert isinstance(rules, tuple), f"{primitive.name} has no derivative rules, not even None for each operand"
    for dtypes in itertools.product(DTYPES, repeat=len(rules)):
        if accepts(primitive, *(TensorType((), d) for d in dtypes)):
            yield dtypes


def _elementwise(primitive: Primitive, rng: np.random.Generator) -> Iterator[Sample]:
    for dtypes in _signatures(primitive):
        for shapes in SHAPES[len(dtypes)]:
            for label, low in (("any", -2.0), ("positive", 0.2)):
                arrays = tuple(random(rng, s, d, low) for s, d in zip(shapes, dtypes, strict=True))
                yield Sample(f"{primitive.name} {label}", arrays, smooth=not _near_step(primitive.name, arrays))
        last = tuple(random(rng, (4, 6), d) for d in dtypes)
        for turned in zip(*(views(a) for a in last), strict=True):
            yield Sample(f"{primitive.name} {turned[0][0]}", tuple(a for _, a in turned))
        if any(d.kind == "f" for d in dtypes):
            yield Sample(f"{primitive.name} special", _special_grid(dtypes), smooth=False)


def _near_step(name: str, arrays: tuple[Array, ...]) -> bool:
    """Whether a step function has a step so near that finite differences would see it."""
    if name not in ("floor", "floor_divide", "remainder"):
        return False
    with np.errstate(all="ignore"):
        quotient = np.asarray(arrays[0] / arrays[1] if len(arrays) == 2 else arrays[0])
        return bool((np.abs(quotient - np.rint(quotient)) < 0.02).any())


def _special_grid(dtypes: tuple[DType, ...]) -> tuple[Array, ...]:
    """NaN, infinities, zeros of both signs, tiny and huge numbers, each with each."""
    n = len(SPECIALS)
    arrays = []
    for k, dtype in enumerate(dtypes):
        with np.errstate(all="ignore"):
            values = np.array(SPECIALS) if dtype.kind == "f" else np.arange(n) % 5 - (2 if dtype.kind == "i" else 0)
            values = values.astype(dtype.numpy)
        shape = [1] * min(len(dtypes), 2)
        shape[k % len(shape)] = n
        arrays.append(values.reshape(shape))
    return tuple(arrays)


def _reduction(primitive: Primitive, rng: np.random.Generator) -> Iterator[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = [
        ((), (), False),
        ((1,), (0,), False),
        ((7,), (0,), True),
        ((3, 5), (1,), False),
        ((3, 5), (0,), True),
        ((3, 5), (0, 1), False),
        ((3, 5), (), False),
        ((2, 3, 4), (0, 2), True),
        ((2, 3, 4), (1,), False),
        ((2, 0, 3), (1,), False),
        ((2, 0, 3), (0,), False),
        ((5, 33), (1,), False),
    ]
    for dtype in DTYPES:
        for shape, axes, keepdims in cases:
            if accepts(primitive, TensorType(shape, dtype), axes=axes, keepdims=keepdims):
                attrs = {"axes": axes, "keepdims": keepdims}
                yield Sample(primitive.name, (random(rng, shape, dtype),), attrs)
        if accepts(primitive, TensorType((4, 6), dtype), axes=(1,), keepdims=False):
            for label, view in views(random(rng, (4, 6), dtype)):
                yield Sample(f"{primitive.name} {label}", (view,), {"axes": (0,), "keepdims": False})
    for dtype in (float32, float64):
        ties = np.array([[1, 3, 3, 2], [np.nan, 5, 0, 1], [np.inf, -np.inf, 0, 0], [-0.0, 0.0, -0.0, -1]], dtype.numpy)
        for axes in ((0,), (1,), (0, 1)):
            yield Sample(f"{primitive.name} special", (ties,), {"axes": axes, "keepdims": False}, smooth=False)


# ---------------------------------------------------------------------------------- one by one


def _astype(rng: np.random.Generator) -> Iterator[Sample]:
    for source, target in itertools.product(DTYPES, DTYPES):
        for shape in ((), (0,), (3, 5)):
            smooth = target.kind == "f" and source.kind == "f"
            yield Sample("astype", (random(rng, shape, source),), {"dtype": target}, smooth and target is float64)
    for source, target in itertools.product((float32, float64), (float32, float64, bool_)):
        with np.errstate(all="ignore"):
            yield Sample("astype special", (np.array(SPECIALS, source.numpy),), {"dtype": target}, smooth=False)


def _reshape(rng: np.random.Generator) -> Iterator[Sample]:
    cases = [
        ((), (1,)),
        ((1, 1), ()),
        ((6, 4), (2, 12)),
        ((24,), (2, 3, 4)),
        ((6, 4), (8, 3)),
        ((0, 3), (3, 0, 1)),
        ((5, 7), (7, 5)),
    ]
    for source, shape in cases:
        yield Sample("reshape", (random(rng, source),), {"shape": shape})
    yield Sample("reshape transposed", (random(rng, (4, 6)).T,), {"shape": (8, 3)})
    yield Sample("reshape", (random(rng, (2, 3), int32),), {"shape": (3, 2)})


def _permute(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axes in (((), ()), ((3,), (0,)), ((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((2, 0, 4), (1, 2, 0))):
        yield Sample("permute_dims", (random(rng, shape),), {"axes": axes})
    yield Sample("permute_dims", (random(rng, (2, 3), bool_),), {"axes": (1, 0)})


def _broadcast(rng: np.random.Generator) -> Iterator[Sample]:
    for source, shape in (((), ()), ((), (3,)), ((1,), (4,)), ((3, 1), (2, 3, 5)), ((1, 3), (0, 3)), ((2, 3), (2, 3))):
        yield Sample("broadcast_to", (random(rng, source),), {"shape": shape})


def _sum_to(rng: np.random.Generator) -> Iterator[Sample]:
    for source, shape in (
        ((3,), ()),
        ((4,), (1,)),
        ((2, 3, 5), (3, 1)),
        ((0, 3), (1, 3)),
        ((2, 3), (3,)),
        ((2, 3), (2, 3)),
    ):
        yield Sample("sum_to", (random(rng, source),), {"shape": shape})


def _slice(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, start, stop, step in (
        ((7,), (0,), (7,), (1,)),
        ((7,), (1,), (6,), (2,)),
        ((7,), (3,), (3,), (1,)),
        ((5, 6), (1, 0), (4, 6), (1, 5)),
        ((0, 3), (0, 1), (0, 2), (1, 1)),
        ((), (), (), ()),
    ):
        yield Sample("slice", (random(rng, shape),), {"start": start, "stop": stop, "step": step})
    yield Sample("slice", (random(rng, (6,), int64)[::-1],), {"start": (1,), "stop": (5,), "step": (3,)})


def _pad(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, low, high, interior, value in (
        ((), (), (), (), 0),
        ((4,), (2,), (1,), (0,), 0),
        ((4,), (0,), (2,), (2,), 1.5),
        ((2, 3), (1, 0), (0, 2), (1, 1), 0),
        ((0, 3), (1, 1), (2, 0), (0, 0), 0),
        ((1, 3), (0, 1), (1, 0), (3, 0), float("-inf")),
    ):
        attrs = {"low": low, "high": high, "interior": interior, "value": value}
        yield Sample("pad", (random(rng, shape),), attrs)
    yield Sample("pad", (random(rng, (3,), int64),), {"low": (1,), "high": (1,), "interior": (0,), "value": 7})


def _put_slice(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _slice(rng):
        part = sample.arrays[0][tuple(slice(*entry) for entry in zip(*sample.attrs.values(), strict=True))]
        yield Sample("put_slice", (sample.arrays[0], random(rng, part.shape, dtype_of(part.dtype))), sample.attrs)


def _cumulative_sum(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((5,), 0), ((1, 40), 1), ((3, 4, 2), 1), ((0, 3), 0), ((2, 0), 0), ((70, 2), 0)):
        for dtype in (float64, float32, int32, bool_):
            yield Sample("cumulative_sum", (random(rng, shape, dtype),), {"axis": axis})


def _flip(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axes in (((), ()), ((5,), (0,)), ((2, 3), (1,)), ((2, 3, 4), (0, 2)), ((0, 2), (0,))):
        yield Sample("flip", (random(rng, shape),), {"axes": axes})


def _concat(rng: np.random.Generator) -> Iterator[Sample]:
    for shapes, axis in (
        (((3,),), 0),
        (((2, 3), (2, 1), (2, 4)), 1),
        (((0, 2), (3, 2)), 0),
        (((1, 2), (0, 2), (0, 2)), 0),
    ):
        yield Sample("concat", tuple(random(rng, s) for s in shapes), {"axis": axis})
    yield Sample("concat", (random(rng, (2,), int32), random(rng, (3,), int32)), {"axis": 0})


def _iota(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis, dtype in (((5,), 0, int64), ((2, 3), 1, float32), ((2, 3), 0, float64), ((0,), 0, int32)):
        yield Sample("iota", (), {"shape": shape, "axis": axis, "dtype": dtype})


def _matmul(rng: np.random.Generator) -> Iterator[Sample]:
    for a, b in (
        ((1, 1), (1, 1)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 1, 2, 3), (3, 3, 2)),
        ((1, 2, 3), (4, 3, 1)),
        ((2, 0), (0, 3)),
        ((0, 2), (2, 3)),
        ((17, 33), (33, 7)),
    ):
        for dtype in (float32, float64):
            yield Sample("matmul", (random(rng, a, dtype), random(rng, b, dtype)))
    yield Sample("matmul transposed", (random(rng, (3, 2)).T, random(rng, (4, 3)).T))
    yield Sample("matmul", (random(rng, (2, 3), int64), random(rng, (3, 2), int64)))


def _conv(rng: np.random.Generator) -> Iterator[Sample]:
    # x, w, stride, padding, lhs_dilation, rhs_dilation, groups
    cases: list[tuple[Any, ...]] = [
        ((1, 1, 1), (1, 1, 1), (1,), ((0, 0),), (1,), (1,), 1),
        ((2, 3, 7), (4, 3, 3), (1,), ((0, 0),), (1,), (1,), 1),
        ((2, 3, 7), (4, 3, 3), (2,), ((1, 2),), (1,), (2,), 1),
        ((2, 4, 6), (6, 2, 2), (1,), ((1, 0),), (1,), (1,), 2),
        ((1, 2, 5), (2, 1, 3), (1,), ((1, 1),), (1,), (1,), 2),
        ((2, 1, 5, 6), (3, 1, 2, 3), (1, 2), ((0, 1), (1, 1)), (1, 1), (1, 1), 1),
        ((2, 2, 5, 4), (2, 2, 3, 3), (2, 1), ((-1, 2), (1, -1)), (1, 1), (1, 1), 1),
        ((1, 4, 4, 3), (4, 1, 3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), (1, 2), 4),
        ((2, 2, 4), (2, 2, 3), (1,), ((2, 2),), (2,), (1,), 1),  # odd extent: phases don't divide it
        ((2, 2, 4), (2, 2, 3), (1,), ((2, 3),), (2,), (1,), 1),  # even extent: by phases
        ((1, 2, 5), (1, 2, 5), (2,), ((4, 5),), (3,), (2,), 1),
        ((1, 1, 4), (1, 1, 3), (1,), ((2, 2),), (2,), (2,), 1),  # dilations share a factor
        ((1, 1, 3, 4), (2, 1, 2, 2), (2, 1), ((1, 0), (1, 2)), (2, 3), (1, 1), 1),
        ((1, 2, 2, 3, 2), (2, 2, 2, 2, 2), (1, 1, 1), ((1, 0), (0, 0), (1, 1)), (1, 1, 1), (1, 1, 1), 1),
        ((0, 2, 5), (3, 2, 3), (1,), ((0, 0),), (1,), (1,), 1),
        ((2, 2, 2), (3, 2, 3), (1,), ((0, 0),), (1,), (1,), 1),  # the kernel doesn't fit: an empty result
        ((2, 3, 6, 6), (4, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1),
        ((2, 3, 2, 9), (4, 3, 2, 8), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1),  # kernel wider than output
    ]
    for x, w, *attrs in cases:
        for dtype in (float64, float32):
            names = ("stride", "padding", "lhs_dilation", "rhs_dilation", "groups")
            yield Sample("conv", (random(rng, x, dtype), random(rng, w, dtype)), dict(zip(names, attrs, strict=True)))
    attrs = dict(zip(names, ((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1), strict=True))
    turned = random(rng, (6, 5, 2, 3)).transpose(3, 2, 1, 0)[:, :, ::-1]
    yield Sample("conv turned", (turned, random(rng, (2, 2, 3, 2))[..., ::-1]), attrs)
    yield Sample("conv integers", (random(rng, (1, 2, 4, 4), int64), random(rng, (1, 2, 2, 2), int64)), attrs)


# shape of x, window, stride, padding, dilation
POOLS: list[tuple[Any, ...]] = [
    ((1, 1, 1), (1,), (1,), ((0, 0),), (1,)),
    ((2, 3, 6), (2,), (2,), ((0, 0),), (1,)),
    ((2, 3, 7), (2,), (2,), ((0, 0),), (1,)),  # the last element in no window
    ((2, 1, 7), (3,), (1,), ((1, 1),), (1,)),
    ((2, 1, 8), (3,), (2,), ((1, 1),), (1,)),
    ((2, 1, 9), (3,), (2,), ((1, 0),), (2,)),
    ((1, 2, 9), (2,), (4,), ((0, 0),), (1,)),  # gaps between windows
    ((2, 2, 4, 6), (2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1)),
    ((1, 2, 5, 6), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2)),
    ((1, 1, 4, 4, 2), (2, 2, 1), (2, 2, 1), ((0, 0), (0, 0), (0, 0)), (1, 1, 1)),
    ((0, 2, 4), (2,), (2,), ((0, 0),), (1,)),
]
_POOL_ATTRS = ("window", "stride", "padding", "dilation")


def _pooled(shape: tuple[int, ...], attrs: dict[str, Any]) -> tuple[int, ...]:
    return PRIMITIVES["max_pool"].infer(TensorType(shape, float64), **attrs).shape


def _pool_inputs(rng: np.random.Generator) -> Iterator[tuple[Array, dict[str, Any], bool]]:
    for shape, *rest in POOLS:
        attrs = dict(zip(_POOL_ATTRS, rest, strict=True))
        for dtype in (float64, float32):
            yield random(rng, shape, dtype), attrs, True
        yield rng.integers(0, 2, shape).astype(np.float64), attrs, False  # ties: the first wins
        rare = random(rng, shape)
        rare[rng.random(shape) < 0.3] = np.nan
        rare[rng.random(shape) < 0.4] = -np.inf
        yield rare, attrs, False
    yield random(rng, (2, 1, 6), int32), dict(zip(_POOL_ATTRS, POOLS[1][1:], strict=True)), False


def _max_pool(rng: np.random.Generator) -> Iterator[Sample]:
    for x, attrs, smooth in _pool_inputs(rng):
        yield Sample("max_pool", (x,), attrs, smooth)


def _max_pool_scatter(rng: np.random.Generator) -> Iterator[Sample]:
    for x, attrs, smooth in _pool_inputs(rng):
        if x.dtype.kind == "f":
            g = random(rng, _pooled(x.shape, attrs), dtype_of(x.dtype))
            yield Sample("max_pool_scatter", (g, x), attrs, smooth)


def _max_pool_gather(rng: np.random.Generator) -> Iterator[Sample]:
    for x, attrs, smooth in _pool_inputs(rng):
        if x.dtype.kind == "f":
            yield Sample("max_pool_gather", (random(rng, x.shape, dtype_of(x.dtype)), x), attrs, smooth)


def _indices(rng: np.random.Generator, shape: tuple[int, ...], size: int, dtype: DType) -> Array:
    return rng.integers(-size, size, shape).astype(dtype.numpy) if size else np.zeros(shape, dtype.numpy)


_TAKES: list[tuple[tuple[int, ...], tuple[int, ...], int]] = [
    ((5,), (), 0),
    ((5,), (7,), 0),
    ((4, 3), (2, 3), 0),
    ((4, 3), (5,), 1),
    ((2, 3, 4), (2, 2), 1),
    ((3, 0), (4,), 0),
    ((0, 3), (0,), 0),
    ((1, 2), (3, 1), 0),
]


def _take(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, wanted, axis in _TAKES:
        for index in (int32, int64):
            indices = _indices(rng, wanted, shape[axis], index)
            yield Sample("take", (random(rng, shape), indices), {"axis": axis})
    yield Sample("take", (random(rng, (4, 3), bool_).T, _indices(rng, (5,), 3, int64)), {"axis": 0})


def _scatter_add(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, wanted, axis in _TAKES:
        for dtype in (float64, float32, int32):
            indices = _indices(rng, wanted, shape[axis], int64)
            updates = random(rng, (*shape[:axis], *wanted, *shape[axis + 1 :]), dtype)
            yield Sample("scatter_add", (updates, indices), {"axis": axis, "size": shape[axis]})


_ALONG: list[tuple[tuple[int, ...], int, int]] = [
    ((5,), 0, 3),
    ((4, 3), 1, 1),
    ((4, 3), 0, 6),
    ((2, 3, 4), 1, 2),
    ((2, 0), 0, 3),
]


def _take_along(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis, count in _ALONG:
        wanted = (*shape[:axis], count, *shape[axis + 1 :])
        for index in (int32, int64):
            yield Sample(
                "take_along_axis", (random(rng, shape), _indices(rng, wanted, shape[axis], index)), {"axis": axis}
            )


def _scatter_along(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis, count in _ALONG:
        wanted = (*shape[:axis], count, *shape[axis + 1 :])
        for dtype in (float64, float32, int64):
            arrays = (random(rng, wanted, dtype), _indices(rng, wanted, shape[axis], int64))
            yield Sample("scatter_add_along_axis", arrays, {"axis": axis, "size": shape[axis]})


def _rank(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((1,), 0), ((9,), 0), ((3, 5), 0), ((3, 5), 1), ((0, 2), 0), ((2, 3, 2), 1)):
        for dtype in DTYPES:
            yield Sample("rank", (random(rng, shape, dtype),), {"axis": axis})
    yield Sample(
        "rank special", (np.array([2.0, np.nan, -0.0, 0.0, np.inf, np.nan, -np.inf, 2.0]),), {"axis": 0}, smooth=False
    )


def _uniform(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((), (0,), (7,), (3, 4)):
        for dtype in (float32, float64):
            state = rng.integers(-(2**63), 2**63 - 1, 2)
            yield Sample("uniform", (state,), {"shape": shape, "dtype": dtype})
    yield Sample("uniform", (np.array([0, 0]),), {"shape": (20000,), "dtype": float32})


SPECIAL: dict[str, Callable[[np.random.Generator], Iterator[Sample]]] = {
    "astype": _astype,
    "reshape": _reshape,
    "permute_dims": _permute,
    "broadcast_to": _broadcast,
    "sum_to": _sum_to,
    "slice": _slice,
    "pad": _pad,
    "put_slice": _put_slice,
    "cumulative_sum": _cumulative_sum,
    "flip": _flip,
    "concat": _concat,
    "iota": _iota,
    "matmul": _matmul,
    "conv": _conv,
    "max_pool": _max_pool,
    "max_pool_scatter": _max_pool_scatter,
    "max_pool_gather": _max_pool_gather,
    "take": _take,
    "scatter_add": _scatter_add,
    "take_along_axis": _take_along,
    "scatter_add_along_axis": _scatter_along,
    "rank": _rank,
    "uniform": _uniform,
    "stop_gradient": lambda rng: iter([Sample("stop_gradient", (random(rng, (3, 2)),), smooth=False)]),
}
