"""Short forms for kernels that are written by hand."""

from __future__ import annotations

from typing import Any

from graphc.ir.expr import Affine, Axis, Literal, affine
from graphc.runtime.loop.ir import For, Offset
from graphc.types import DType, Scalar, float32


def at(*terms: Axis | tuple[Axis, int] | int) -> Offset:
    """The sum of axes, of axes times numbers, and of numbers."""
    total = Affine()
    for term in terms:
        total = total + (term[0] * term[1] if isinstance(term, tuple) else affine(term))
    return Offset(total)


def number(value: Scalar, dtype: DType = float32) -> Literal:
    return Literal(value, dtype)


def parallel(axis: Axis, *body: Any) -> For:
    return For(axis, "parallel", body)
