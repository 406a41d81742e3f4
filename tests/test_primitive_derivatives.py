"""The derivative rules of every primitive, by walking the registry.

vjp and jvp = finite differences in float64, and are adjoint to one another
derivatives of derivatives = finite differences of derivatives
rules on numbers = rules on taped tensors = rules on graph nodes, bit by bit
compiled derivatives = the tape's
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import graphc as gc
from graphc.autodiff import cotangent_of_operand, tangent_of_result
from graphc.dispatch import apply, numbers
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Node, fresh_input, make
from graphc.ir.verify import verify
from graphc.ops.elementwise import multiply
from graphc.ops.reduction import sum as total
from graphc.primitive import Primitive
from graphc.tensor import Tensor, as_tensor
from graphc.transforms import grad, hvp, jvp, vjp
from tests.registry import (
    about,
    assert_close,
    each_differentiable,
    each_primitive,
    generator,
    groups,
    has_rules,
    rounding_of_sum,
    run,
    tensors_of,
)
from tests.samples import Sample, samples

Array = Any

# --------------------------------------------------------------------------------------- derivatives


def smooth_samples(primitive: Primitive, most: int = 40) -> Iterator[tuple[Sample, Array]]:
    """Samples at which finite differences mean something, with the result."""
    left = most
    for sample in samples(primitive):
        if sample.differentiable and left:
            y = run(sample, primitive)
            if y.dtype == np.float64 and np.isfinite(y).all():
                left -= 1
                yield sample, y


def difference(f: Callable[[float], Array]) -> Array:
    """df/dh at 0 by the five-point stencil: error of order h**4, and of eps / h from rounding."""
    h = 2.0**-12
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def moving(sample: Sample, primitive: Primitive, number: int, direction: Array) -> Array:
    """The derivative of the result as one operand moves, by finite differences."""

    def at(h: float) -> Array:
        arrays = list(sample.arrays)
        arrays[number] = arrays[number] + h * direction
        return run(sample, primitive, arrays)

    return difference(at)


def cotangent(primitive: Primitive, number: int, g: Any, y: Any, xs: Sequence[Any], sample: Sample) -> Any:
    return cotangent_of_operand(primitive, number, g, y, list(xs), sample.attrs)


def near(got: Any, want: Any, scale: float = 1.0) -> None:
    np.testing.assert_allclose(np.asarray(got), want, rtol=2e-9, atol=2e-9 * scale)


@each_primitive
def test_vjp_and_jvp_are_finite_differences(primitive: Primitive) -> None:
    seen = 0
    for sample, y in smooth_samples(primitive):
        rng = generator(sample)
        g = rng.normal(size=y.shape)
        for number, x in enumerate(sample.arrays):
            if x.dtype.kind != "f":
                continue
            direction = rng.normal(size=x.shape)
            with about(sample), numbers(), np.errstate(all="ignore"):
                moved = moving(sample, primitive, number, direction)
                tangents: list[Any] = [None] * len(sample.arrays)
                tangents[number] = direction
                pushed = tangent_of_result(primitive, tangents, y, list(sample.arrays), sample.attrs)
                near(0.0 * y if pushed is None else pushed, moved, max(1.0, float(np.abs(y).max(initial=0))))
                pulled = cotangent(primitive, number, g, y, sample.arrays, sample)
                if pulled is None:
                    near(moved, 0 * moved)
                    continue
                assert np.shape(pulled) == x.shape
                seen += 1
                # element by element where there are few, else along the random direction
                units = np.eye(x.size).reshape(x.size, *x.shape) if 0 < x.size <= 24 else [direction]
                for unit in units:
                    change = moving(sample, primitive, number, unit)
                    scale = float(np.abs(g).sum() * max(1.0, np.abs(y).max(initial=0)))
                    near(np.sum(pulled * unit), np.sum(g * change), scale)
    assert bool(seen) == has_rules(primitive), "no sample could be differentiated"


@each_primitive
def test_vjp_and_jvp_are_adjoint(primitive: Primitive) -> None:
    """<g, jvp t> = <vjp g, t>, with all operands moving at once."""
    for sample, y in smooth_samples(primitive):
        rng = generator(sample)
        g = rng.normal(size=y.shape)
        tangents = [rng.normal(size=a.shape) if a.dtype.kind == "f" else None for a in sample.arrays]
        with about(sample), numbers(), np.errstate(all="ignore"):
            pushed = tangent_of_result(primitive, tangents, y, list(sample.arrays), sample.attrs)
            back = 0.0
            for number, t in enumerate(tangents):
                pulled = None if t is None else cotangent(primitive, number, g, y, sample.arrays, sample)
                back += 0.0 if pulled is None else float(np.sum(pulled * t))
            scale = float(np.sum(np.abs(g)) * max(1.0, float(np.abs(0 if pushed is None else pushed).max(initial=0))))
            forth = 0.0 if pushed is None else float(np.sum(g * pushed))
            assert abs(forth - back) <= 1e-12 * max(1.0, scale)


@each_primitive
def test_derivatives_keep_shape_and_dtype(primitive: Primitive) -> None:
    """Of every sample, also of empty and of float32 operands, on numbers and on nodes."""
    for sample in samples(primitive):
        y = run(sample, primitive)
        if y.dtype.kind != "f":
            continue
        inputs = [fresh_input(f"x{i}", t) for i, t in enumerate(sample.types)]
        node = make(primitive, inputs, sample.attrs)
        seed = fresh_input("g", node.type)
        for number, x in enumerate(sample.arrays):
            with about(sample), np.errstate(all="ignore"):
                with numbers():
                    pulled = cotangent(primitive, number, np.ones_like(y), y, sample.arrays, sample)
                formula = cotangent(primitive, number, seed, node, inputs, sample)
                assert (pulled is None) == (formula is None)
                if pulled is not None:
                    assert (np.shape(pulled), pulled.dtype) == (x.shape, x.dtype)
                    assert formula.type == inputs[number].type
                tangents: list[Any] = [None] * len(inputs)
                tangents[number] = np.ones_like(x)
                if x.dtype.kind == "f":
                    with numbers():
                        pushed = tangent_of_result(primitive, tangents, y, list(sample.arrays), sample.attrs)
                    if pushed is not None:
                        assert (np.shape(pushed), pushed.dtype) == (y.shape, y.dtype)


@each_primitive
def test_rules_on_nodes_are_rules_on_numbers(primitive: Primitive) -> None:
    """The graph that a rule builds evaluates to exactly what the rule computes."""
    for sample in samples(primitive):
        y = run(sample, primitive)
        if y.dtype.kind != "f":
            continue
        rng = generator(sample)
        inputs = [fresh_input(f"x{i}", t) for i, t in enumerate(sample.types)]
        node = make(primitive, inputs, sample.attrs)
        seed = fresh_input("g", node.type)
        g = rng.normal(size=y.shape).astype(y.dtype)
        outputs: list[Node] = []
        wanted: list[Array] = []
        moving_inputs = [fresh_input(f"t{i}", t) if t.dtype.kind == "f" else None for i, t in enumerate(sample.types)]
        ts = [rng.normal(size=a.shape).astype(a.dtype) if a.dtype.kind == "f" else None for a in sample.arrays]
        with about(sample), np.errstate(all="ignore"):
            for number in range(len(inputs)):
                formula = cotangent(primitive, number, seed, node, inputs, sample)
                if formula is not None:
                    with numbers():
                        wanted.append(cotangent(primitive, number, g, y, sample.arrays, sample))
                    outputs.append(formula)
            formula = None
            if any(t is not None for t in ts):
                formula = tangent_of_result(primitive, moving_inputs, node, inputs, sample.attrs)
            if formula is not None:
                with numbers():
                    wanted.append(tangent_of_result(primitive, ts, y, list(sample.arrays), sample.attrs))
                outputs.append(formula)
            if not outputs:
                continue
            everything = [*inputs, seed, *(t for t in moving_inputs if t is not None)]
            graph = verify(Graph(everything, outputs))
            found = evaluate(graph, [*sample.arrays, g, *(t for t in ts if t is not None)])
            for got, want in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(got, want)


@each_primitive
def test_tape_is_the_rules(primitive: Primitive) -> None:
    """backward() through one operation gives exactly its rules' numbers."""
    for sample in samples(primitive)[:30]:
        y = run(sample, primitive)
        if y.dtype.kind != "f":
            continue
        g = generator(sample).normal(size=y.shape).astype(y.dtype)
        with about(sample), np.errstate(all="ignore"):
            tensors = [as_tensor(a.copy()) for a in sample.arrays]
            for t, a in zip(tensors, sample.arrays, strict=True):
                t.requires_grad = a.dtype.kind == "f"
            result: Tensor = apply(primitive, *tensors, **sample.attrs)
            np.testing.assert_array_equal(result.detach().numpy(), y)
            if not result.requires_grad:
                continue
            result.backward(as_tensor(g))
            for number, t in enumerate(tensors):
                with numbers():
                    want = cotangent(primitive, number, g, y, sample.arrays, sample)
                if want is None or not t.requires_grad:
                    assert t.grad is None
                else:
                    np.testing.assert_array_equal(t.grad.numpy(), want)


@each_differentiable
def test_second_derivatives_are_differences_of_first(primitive: Primitive) -> None:
    """Of <g, y**2> / 2, so that operations linear in their operands have a second derivative too."""
    chosen = [(s, y) for s, y in smooth_samples(primitive) if 0 < sum(a.size for a in s.arrays) <= 120 and y.size]
    assert chosen
    for sample, y in chosen[:8]:
        rng = generator(sample)
        g = as_tensor(rng.normal(size=y.shape) / 2)
        moving_numbers = tuple(i for i, a in enumerate(sample.arrays) if a.dtype.kind == "f")
        at = [sample.arrays[i] for i in moving_numbers]
        directions = [rng.normal(size=a.shape) for a in at]

        def f(*xs: Any, sample: Sample = sample, g: Any = g, which: Any = moving_numbers) -> Any:
            operands = [as_tensor(a) for a in sample.arrays]
            for i, x in zip(which, xs, strict=True):
                operands[i] = x
            result = apply(primitive, *operands, **sample.attrs)
            return total(multiply(g, multiply(result, result)))

        first = grad(f, tuple(range(len(moving_numbers))))

        def gradient(h: float, first: Any = first, at: Any = at, along: Any = directions) -> Array:
            moved = [as_tensor(x + h * d) for x, d in zip(at, along, strict=True)]
            return np.concatenate([np.ravel(v.numpy()) for v in first(*moved)])

        with about(sample):
            got = hvp(f, [as_tensor(a) for a in at], [as_tensor(d) for d in directions])
            flat = np.concatenate([np.ravel(v.numpy()) for v in got])
            want = difference(gradient)
            near(flat, want, max(1.0, float(np.abs(want).max())))


@each_differentiable
def test_compiled_derivatives_are_the_tapes(primitive: Primitive) -> None:
    """Reverse and forward mode in one compiled function, against the same function run eagerly."""

    def derivatives(sample: Sample, operands: list[Any]) -> list[Any]:
        which = [i for i, a in enumerate(sample.arrays) if a.dtype.kind == "f"]
        seed = generator(sample)

        def f(*moving: Any) -> Any:
            xs = list(operands)
            for i, x in zip(which, moving, strict=True):
                xs[i] = x
            return apply(primitive, *xs, **sample.attrs)

        primals = [operands[i] for i in which]
        y, pullback = vjp(f, *primals)
        g = seed.normal(size=y.shape).astype(y.dtype.numpy)
        tangents = [seed.normal(size=x.shape).astype(x.dtype.numpy) for x in primals]
        return [*pullback(as_tensor(g)), jvp(f, primals, [as_tensor(t) for t in tangents])[1]]

    for group in groups(primitive, floats=True):
        group = [s for s in group if any(a.dtype.kind == "f" for a in s.arrays)]

        def all_of(*operands: Any, group: Any = group) -> Any:
            left = iter(operands)
            return [derivatives(s, [next(left) for _ in s.arrays]) for s in group]

        arguments = tensors_of(group)
        for sample, got, want in zip(group, gc.compile(all_of)(*arguments), all_of(*arguments), strict=True):
            with about(sample):
                for a, b in zip(got, want, strict=True):
                    x, y = a.numpy(), b.numpy()
                    finite = np.abs(y[np.isfinite(y)])
                    assert_close(x, y, 16 + rounding_of_sum(sample), float(finite.max(initial=0)))
