"""Factories that turn the few facts peculiar to an operation into a whole Primitive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import (
    AffineLike,
    Axis,
    Call,
    Compute,
    Expr,
    Read,
    Reducer,
    affine,
    axes_of,
)
from graphc.primitive import Fact, Primitive, Rule
from graphc.types import DType, TensorType, broadcast_shapes, int64, reduced_shape

KIND_NAMES = {"f": "floating", "i": "integer", "b": "boolean"}


def array_function(name: str) -> Callable[..., Any]:
    """The function of this name in the operands' array library (numpy or cupy)."""
    numpy_function = getattr(np, name)

    def evaluate(xp: Any, *arrays: Any) -> Any:
        if xp is np:
            return numpy_function(*arrays)
        return getattr(xp, name)(*arrays)

    evaluate.ufunc = numpy_function  # type: ignore[attr-defined]
    return evaluate


def check_kinds(op: str, kinds: str, *types: TensorType) -> None:
    """Raise DTypeError unless every operand's kind is among `kinds` (letters of "fib")."""
    for t in types:
        if t.dtype.kind not in kinds:
            wanted = " or ".join(KIND_NAMES[k] for k in kinds)
            raise DTypeError(f"{op}: needs {wanted} operands, got {t.dtype.name}. Convert with x.astype(...).")


def check_same_dtype(op: str, *types: TensorType) -> DType:
    """The common dtype; DTypeError if they differ."""
    first = types[0].dtype
    for t in types[1:]:
        if t.dtype is not first:
            listed = " and ".join(x.dtype.name for x in types)
            raise DTypeError(f"{op}: operands have dtypes {listed}; convert one of them with x.astype(...).")
    return first


def broadcast_read(operand: int, type: TensorType, axes: tuple[Axis, ...]) -> Read:
    """Read an operand that broadcasts against the result's axes."""
    own = axes[len(axes) - type.ndim :]
    index = tuple(affine(0 if n == 1 else a) for n, a in zip(type.shape, own, strict=True))
    return Read(operand, index, type.dtype)


def elementwise(
    name: str,
    eval: str | Callable[..., Any],
    scalar: str | Callable[..., Expr],
    partials: tuple[Rule | None, ...] | None = None,
    *,
    kinds: str = "fi",
    result: DType | None = None,
    facts: Fact = Fact.NONE,
    vjp: tuple[Rule | None, ...] | None = None,
    jvp: Rule | None = None,
) -> Primitive:
    """An operation on elements. Operands broadcast and share one dtype.

    eval: numpy's name of it, or (xp, *arrays) -> array. scalar: the name in SCALAR_OPS, or a function of
    scalar expressions. partials: see Primitive. kinds: the operand kinds it takes, letters of "fib".
    result: the result's dtype where it isn't the operands'.
    """

    def infer(*types: TensorType) -> TensorType:
        first = types[0]
        for t in types:
            if t is not first and t != first:
                break
        else:  # most of a graph's nodes: nothing is to be promoted or stretched
            if result is None and first.dtype.kind in kinds:
                return first
        check_kinds(name, kinds, *types)
        dtype = check_same_dtype(name, *types)
        shape = types[0].shape if len(types) == 1 else broadcast_shapes(*[t.shape for t in types], op=name)
        if result is None:
            for t in types:
                if t.shape is shape:
                    return t
        return TensorType(shape, result or dtype)

    def body(*types: TensorType) -> Compute:
        out = infer(*types)
        axes = axes_of(out.shape)
        reads = [broadcast_read(k, t, axes) for k, t in enumerate(types)]
        value = Call(scalar, tuple(reads), out.dtype) if isinstance(scalar, str) else scalar(*reads)
        return Compute(axes, value, tuple(affine(a) for a in axes))

    return Primitive(
        name,
        infer=infer,
        eval=array_function(eval) if isinstance(eval, str) else eval,
        partials=partials,
        vjp=vjp,
        jvp=jvp,
        body=body,
        facts=facts | Fact.ELEMENTWISE,
    )


def reduction(
    name: str,
    eval: Callable[..., Any],
    reducer: Reducer,
    vjp: Rule | None,
    jvp: Rule | None,
    *,
    kinds: str,
    result: Callable[[DType], DType] = lambda dtype: dtype,
    needs_elements: bool = False,
) -> Primitive:
    """A reduction over `axes` (sorted, non-negative; attrs axes and keepdims)."""

    def infer(x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
        check_kinds(name, kinds, x)
        shape = reduced_shape(x.shape, axes, keepdims)
        if needs_elements and x.size == 0 and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"{name}: can't reduce an axis without elements, shape {x.shape} over axes {axes}.")
        return TensorType(shape, result(x.dtype))

    def body(x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> Compute:
        out = infer(x, axes=axes, keepdims=keepdims)
        every = axes_of(x.shape)
        kept = tuple(a for i, a in enumerate(every) if i not in axes)
        folded = tuple(a for i, a in enumerate(every) if i in axes)
        value: Expr = Read(0, tuple(affine(a) for a in every), x.dtype)
        if reducer == "sum" and out.dtype is not x.dtype:
            value = Call("cast", (value,), out.dtype)
        entries: list[AffineLike] = [0 if i in axes else a for i, a in enumerate(every)] if keepdims else list(kept)
        return Compute(kept, value, tuple(affine(e) for e in entries), folded, reducer)

    return Primitive(
        name, infer=infer, eval=eval, vjp=(vjp,) if vjp else None, jvp=jvp, body=body, facts=Fact.REDUCTION
    )


def widen_integers(dtype: DType) -> DType:
    """The dtype of a sum: integers and booleans are summed in int64 (the array API's rule)."""
    return dtype if dtype.kind == "f" else int64
