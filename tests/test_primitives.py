"""Every primitive in every mode, by walking the registry: a new record is tested here without a new line.

Operands come from tests/samples.py, meanings from tests/references.py. What is held for each record:

    eval = the definition in exact arithmetic        (values, shapes, dtypes, special numbers)
    infer = the type of what eval gives, and both refuse the same operands
    body, run by the loop interpreter = eval
    vjp and jvp = finite differences in float64, and are adjoint to one another
    derivatives of derivatives = finite differences of derivatives
    rules on numbers = rules on taped tensors = rules on graph nodes, bit by bit
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from graphc.autodiff import cotangent_of_operand, tangent_of_result
from graphc.dispatch import apply, numbers
from graphc.errors import GraphcError, IndexingError
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Node, fresh_input, make
from graphc.ir.verify import verify
from graphc.ops import PRIMITIVES
from graphc.ops.elementwise import multiply
from graphc.ops.reduction import sum as total
from graphc.primitive import Fact, Primitive
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.verify import verify_nest
from graphc.tensor import Tensor, as_tensor
from graphc.transforms import grad, hvp
from graphc.types import DTYPES, TensorType, dtype_of
from tests.references import REFERENCES
from tests.samples import Sample, computable, samples

Array = Any

NUMPY_NAMES = {"power": "float_power", "stop_gradient": "", "copy": "", "astype": ""}


def each(primitives: list[Primitive]) -> Any:
    return pytest.mark.parametrize("primitive", primitives, ids=lambda p: p.name)


def has_rules(primitive: Primitive) -> bool:
    rules = primitive.partials if primitive.partials is not None else primitive.vjp
    return callable(rules) or bool(rules and any(rules))


def numpy_function(primitive: Primitive) -> Any:
    """NumPy's function of the same meaning, if it has one."""
    return getattr(np, NUMPY_NAMES.get(primitive.name, primitive.name), None)


each_primitive = each(computable())
each_differentiable = each([p for p in computable() if has_rules(p)])
each_known_to_numpy = each([p for p in computable() if p.facts & Fact.ELEMENTWISE and numpy_function(p)])

# NumPy's own elementary functions, in units in the last place; everything else is rounded correctly.
ULPS = {
    "exp": 4, "expm1": 4, "log": 4, "log1p": 4, "tanh": 4, "erf": 4, "sin": 4, "cos": 4, "power": 4, "rsqrt": 2,
    "floor_divide": 0, "remainder": 1,
}  # fmt: skip
# Sums of products: the error bound is that of a sum, relative to the sum of magnitudes.
SUMS = {"sum", "sum_to", "matmul", "conv", "max_pool_scatter", "scatter_add", "scatter_add_along_axis"}


@contextmanager
def about(sample: Sample) -> Iterator[None]:
    """An assertion that fails within names the sample."""
    try:
        yield
    except Exception as error:
        error.add_note(f"sample: {sample!r}")
        raise


def run(sample: Sample, primitive: Primitive, arrays: Sequence[Array] | None = None) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(primitive.eval(np, *(sample.arrays if arrays is None else arrays), **sample.attrs))


def generator(sample: Sample) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(sample).encode()))


def assert_close(got: Array, want: Array, ulps: float, scale: Array | float = 0.0) -> None:
    """|got - want| <= ulps units in the last place of want (or of `scale`, if larger); nan and inf agree exactly."""
    assert got.shape == want.shape
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    eps = np.finfo(got.dtype).eps
    tiny = float(np.finfo(got.dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        reach = np.maximum(np.abs(want.astype(np.float64)), scale)
        off = np.abs(got.astype(np.float64) - want.astype(np.float64)) > ulps * (eps * reach + tiny)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        wrong = np.where(np.isfinite(want) & np.isfinite(got), off, ~same)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{int(wrong.sum())} of {got.size} differ, first at {at}: {got[at]!r} != {want[at]!r}")


# -------------------------------------------------------------------------------------------- records


def test_every_primitive_is_registered_once_and_complete() -> None:
    for name, primitive in PRIMITIVES.items():
        assert primitive.name == name
        symbolic = bool(primitive.facts & Fact.SYMBOLIC)
        assert (primitive.body is None) == symbolic or name in ("leaf",), name
        assert not (primitive.partials and primitive.vjp), f"{name}: partials make vjp and jvp; give one or the other"
        if primitive.vjp and not callable(primitive.vjp) and any(primitive.vjp):
            assert primitive.jvp is not None, f"{name} has a reverse rule but no forward rule"


@each_primitive
def test_samples_and_a_reference_exist(primitive: Primitive) -> None:
    assert samples(primitive)
    assert primitive.name in REFERENCES


# ------------------------------------------------------------------------------------ eval and infer


@each_primitive
def test_infer_is_the_type_of_eval(primitive: Primitive) -> None:
    for sample in samples(primitive):
        with about(sample):
            y = run(sample, primitive)
            assert primitive.infer(*sample.types, **sample.attrs) == TensorType(y.shape, dtype_of(y.dtype))


@each_primitive
def test_eval_is_the_definition(primitive: Primitive) -> None:
    reference = REFERENCES[primitive.name]
    for sample in samples(primitive):
        if "special" in sample.label and primitive.name not in ("rank", "max", "min", "argmax", "argmin"):
            continue  # nan and inf: test_special_numbers
        with about(sample), np.errstate(all="ignore"):
            got, want = run(sample, primitive), reference(*sample.arrays, **sample.attrs)
            assert got.shape == want.shape
            scale: Any = 0.0
            if primitive.name in SUMS:
                magnitudes = [np.abs(a) if a.dtype.kind == "f" else a for a in sample.arrays]
                if primitive.name == "max_pool_scatter":
                    magnitudes[1] = sample.arrays[1]
                scale = run(sample, primitive, magnitudes).astype(np.float64)
            terms = max((a.size for a in sample.arrays), default=1)
            ulps = 2 + terms**0.5 if primitive.name in SUMS else ULPS.get(primitive.name, 0.5)
            assert_close(got, want.astype(got.dtype), ulps + 0.01, scale)


@each_known_to_numpy
def test_special_numbers(primitive: Primitive) -> None:
    """nan, inf, -0.0, denormals: as NumPy's function of that name on float64, rounded; signs of zeros too."""
    function = numpy_function(primitive)
    for sample in samples(primitive):
        if "special" not in sample.label:
            continue
        with about(sample), np.errstate(all="ignore"):
            got = run(sample, primitive)
            if got.dtype == np.float32 and any(a.dtype == np.float64 for a in sample.arrays):
                continue
            wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.arrays]
            want = np.asarray(function(*wide)).astype(got.dtype)
            if got.dtype == np.float32 and primitive.name in ("floor_divide", "remainder"):
                want = np.asarray(function(*sample.arrays))  # exact in its own precision, not after rounding
            assert_close(got, want, ULPS.get(primitive.name, 0.5) + 0.01)
            if got.dtype.kind == "f":
                zero = got == 0
                np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@each_primitive
def test_eager_refuses_what_infer_refuses(primitive: Primitive) -> None:
    """Operands with a size or a dtype changed: both take them and agree on the type, or both raise our error."""
    for sample in samples(primitive)[::3]:
        for changed in _changes(primitive, sample.arrays):
            types = [TensorType(a.shape, dtype_of(a.dtype)) for a in changed]
            tensors = [as_tensor(a) for a in changed]
            with about(sample):
                try:
                    inferred = primitive.infer(*types, **sample.attrs)
                except GraphcError as error:
                    with pytest.raises(type(error)):
                        apply(primitive, *tensors, **sample.attrs)
                    continue
                try:
                    y = apply(primitive, *tensors, **sample.attrs)
                except IndexingError:
                    continue  # what an index is worth, infer can't know
                assert (y.shape, y.dtype) == (inferred.shape, inferred.dtype)


def _changes(primitive: Primitive, arrays: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Each operand one longer, and of every dtype (unless the function promotes before it applies the primitive)."""
    for k, a in enumerate(arrays):
        options = [np.concatenate([a, a[:1]])] if a.ndim and a.size else []
        if not primitive.facts & Fact.ELEMENTWISE and primitive.name not in ("matmul", "concat"):
            with np.errstate(all="ignore"):
                options += [a.astype(d.numpy) for d in DTYPES]
        for option in options:
            yield (*arrays[:k], option, *arrays[k + 1 :])


# ---------------------------------------------------------------------------------------------- body


@each_primitive
def test_body_run_by_the_loop_interpreter_is_eval(primitive: Primitive) -> None:
    for sample in samples(primitive):
        with about(sample):
            want = run(sample, primitive)
            if want.size == 0:
                continue  # no element to compute: the runtime makes no kernel
            inputs = [fresh_input(f"x{i}", t) for i, t in enumerate(sample.types)]
            nest = lower_node(make(primitive, inputs, sample.attrs))
            verify_nest(nest)
            got = np.full(want.shape, 77, want.dtype)
            arrays = [np.array(a, order="C") for a in sample.arrays]
            memory = {f"p{i}": a.reshape(-1) for i, a in enumerate(arrays)} | {"o0": got.reshape(-1)}
            assert run_nest(nest, memory) == 0
            scale: Any = 0.0
            if primitive.name in SUMS and want.dtype.kind == "f":
                finite = [np.where(np.isfinite(a), np.abs(a), 0) if a.dtype.kind == "f" else a for a in sample.arrays]
                if primitive.name == "max_pool_scatter":
                    finite[1] = sample.arrays[1]
                scale = run(sample, primitive, finite).astype(np.float64)
            terms = max((a.size for a in sample.arrays), default=1)
            assert_close(got, want, 2 + terms**0.5 if primitive.name in SUMS else 0, scale)


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
    return cotangent_of_operand(primitive, number, g, y, list(xs), sample.attrs, False)


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


def test_assert_close_notices() -> None:
    """The tests' own measure: an ulp too much, a nan too few, another sign of infinity."""
    one = np.array([1.0], np.float32)
    assert_close(np.nextafter(one, np.float32(2)), one, 1)
    for wrong in (one + np.float32(1e-6), np.array([np.nan], np.float32), np.array([np.inf], np.float32)):
        with pytest.raises(AssertionError):
            assert_close(wrong, one, 1)
    with pytest.raises(AssertionError):
        assert_close(np.array([np.inf]), np.array([-np.inf]), 1)
