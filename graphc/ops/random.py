"""Random numbers by counter: the same stream in every mode, on every machine, in any order of evaluation.

One primitive, `uniform`: element e of draw number d with seed s is Philox4x32-10 of the counter
(e low, e high, d low, d high) under the key (s low, s high), 32 bits each. float32 takes the upper 24 bits of
word 0; float64 takes 53 bits of words 0 and 1. There is no state but the operand int64[2] = (seed, draw).

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.dispatch import apply, dtype_of_value, shape_of, type_of
from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import Compute, Index, Read, affine, axes_of, call
from graphc.ops.elementwise import add, astype, cos, floor, less, log1p, multiply, negative, sqrt
from graphc.ops.movement import reshape, split
from graphc.ops.sorting import ranks
from graphc.primitive import Fact, Primitive, Value
from graphc.types import DEFAULT_FLOAT, DType, Shape, TensorType, dtype_of, float32, float64, int64

_BLOCK = 1 << 14  # elements generated at a time: the rounds' temporaries stay in the cache
_ROUNDS = 10
_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # the key's increments: golden ratio and sqrt(3) - 1

Words: TypeAlias = tuple[Any, Any, Any, Any]


def philox4x32(xp: Any, counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10. counter: four uint64 arrays (or NumPy scalars) below 2**32. key: two ints below 2**32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    half, low = xp.uint64(32), xp.uint64(_LOW)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * xp.uint64(_MULTIPLIERS[0]), c2 * xp.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ xp.uint64(k0),
            product1 & low,
            (product0 >> half) ^ c3 ^ xp.uint64(k1),
            product0 & low,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _infer(state: TensorType, *, shape: Shape, dtype: DType) -> TensorType:
    if state.shape != (2,) or state.dtype is not int64:
        raise ShapeError(f"uniform: state must be int64[2] = (seed, draw), got {state}.")
    if dtype.kind != "f":
        raise DTypeError(f"uniform: random numbers are float32 or float64, not {dtype.name}; use randint for integers.")
    return TensorType(shape, dtype)


def _eval(xp: Any, state: Any, *, shape: Shape, dtype: DType) -> Any:
    _infer(type_of(state), shape=shape, dtype=dtype)
    seed, draw = (int(word) % 2**64 for word in state)
    key = (seed & _LOW, seed >> 32)
    size = math.prod(shape)
    out = xp.empty(size, dtype=dtype.numpy)
    half, low = xp.uint64(32), xp.uint64(_LOW)
    for start in range(0, size, _BLOCK):
        element = xp.arange(start, min(start + _BLOCK, size), dtype=xp.uint64)
        counter = (element & low, element >> half, xp.uint64(draw & _LOW), xp.uint64(draw >> 32))
        word0, word1, _, _ = philox4x32(xp, counter, key)
        if dtype is float32:
            out[start : start + _BLOCK] = (word0 >> xp.uint64(8)).astype(xp.float32) * xp.float32(2.0**-24)
        else:
            bits = ((word0 >> xp.uint64(5)) << xp.uint64(26)) | (word1 >> xp.uint64(6))
            out[start : start + _BLOCK] = bits.astype(xp.float64) * 2.0**-53
    return out.reshape(shape)


def _body(state: TensorType, *, shape: Shape, dtype: DType) -> Compute:
    axes = axes_of(shape)
    element, stride = affine(0), 1
    for axis in reversed(axes):
        element, stride = element + axis * stride, stride * axis.extent
    seed, draw = (Read(0, (affine(k),), int64) for k in (0, 1))
    word = "philox32" if dtype is float32 else "philox64"
    return Compute(axes, call(word, seed, draw, Index(element), dtype=dtype), tuple(affine(a) for a in axes))


UNIFORM = Primitive("uniform", infer=_infer, eval=_eval, vjp=(None,), body=_body, facts=Fact.COSTLY)

PRIMITIVES = (UNIFORM,)

# ------------------------------------------------------------------------------------------- functions
# `state` is int64[2] = (seed, draw). The same state gives the same numbers: take another draw for others.


def uniform(
    state: Value, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0, dtype: Any = DEFAULT_FLOAT
) -> Value:
    """Numbers evenly spread over [low, high), of `shape` and a floating dtype."""
    u = apply(UNIFORM, state, shape=tuple(int(n) for n in shape), dtype=dtype_of(dtype))
    return u if (low, high) == (0.0, 1.0) else add(multiply(u, high - low), low)


def normal(
    state: Value, shape: Sequence[int] = (), mean: float = 0.0, std: float = 1.0, dtype: Any = DEFAULT_FLOAT
) -> Value:
    """Normally distributed numbers: sqrt(-2 log(1 - u)) * cos(2 pi v) (Box and Muller, 1958).

    u has 24 or 53 bits, so no number is further from the mean than 5.8 (float32) or 8.6 (float64) deviations.
    """
    dims = tuple(int(n) for n in shape)
    u, v = (reshape(half, dims) for half in split(uniform(state, (2, *dims), dtype=dtype), 1))
    radius = sqrt(multiply(log1p(negative(u)), -2.0))
    z = multiply(radius, cos(multiply(v, 2.0 * math.pi)))
    return z if (mean, std) == (0.0, 1.0) else add(multiply(z, std), mean)


def bernoulli(state: Value, p: Value, shape: Sequence[int] | None = None) -> Value:
    """Booleans that are true with probability p (a number, or an array that broadcasts to `shape`)."""
    dims = shape_of(p) if shape is None else tuple(shape)
    dtype = float64 if dtype_of_value(p) is float64 else float32
    return less(uniform(state, dims, dtype=dtype), p)


def randint(state: Value, low: int, high: int, shape: Sequence[int] = ()) -> Value:
    """int64 numbers evenly spread over low, ..., high - 1. The range may have up to 2**53 numbers."""
    if not 0 < high - low <= 2**53:
        raise ShapeError(f"randint: the range [{low}, {high}) must hold between 1 and 2**53 numbers.")
    # u is at most 1 - 2**-53, so that the rounded product stays below high - low
    steps = floor(multiply(uniform(state, shape, dtype=float64), float(high - low)))
    return add(astype(steps, int64), low)


def permutation(state: Value, n: int) -> Value:
    """0, ..., n - 1 in random order (int64): the ranks of n independent random numbers."""
    return ranks(uniform(state, (n,), dtype=float64), axis=0)


def key(seed: int, draw: int = 0) -> Any:
    """The state of draw number `draw` under `seed`: an int64[2] array. Any Python integers, taken modulo 2**64."""
    return np.array([seed % 2**64, draw % 2**64], dtype=np.uint64).view(np.int64)
