"""Every primitive in every mode, by walking the registry: a new record is tested here without a new line.

Operands come from tests/samples.py, meanings from tests/references.py. What is held for each record:

    eval = the definition in exact arithmetic        (values, shapes, dtypes, special numbers)
    infer = the type of what eval gives, and both refuse the same operands
    body, run by the loop interpreter = eval
    compiled = eval

Derivatives are in test_primitive_derivatives.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.dispatch import apply
from graphc.errors import GraphcError, IndexingError
from graphc.ir.node import fresh_input, make
from graphc.ops import PRIMITIVES
from graphc.primitive import Fact, Primitive
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.verify import verify_nest
from graphc.tensor import as_tensor
from graphc.types import DTYPES, TensorType, dtype_of
from tests.references import REFERENCES
from tests.registry import (
    SUMS,
    ULPS,
    about,
    assert_close,
    each_known_to_numpy,
    each_primitive,
    groups,
    magnitude,
    numpy_function,
    rounding_of_sum,
    run,
    tensors_of,
)
from tests.samples import samples

Array = Any

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
            ulps = ULPS.get(primitive.name, 0.5)
            if primitive.name in SUMS:
                ulps = rounding_of_sum(sample)
            assert_close(got, want.astype(got.dtype), ulps + 0.01, magnitude(sample, primitive))


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
            ulps = rounding_of_sum(sample) if primitive.name in SUMS else 0
            assert_close(got, want, ulps, magnitude(sample, primitive))


# ------------------------------------------------------------------------------------------ compiled


@each_primitive
def test_compiled_is_eager(primitive: Primitive) -> None:
    for group in groups(primitive, floats=False):

        def f(*operands: Any, group: Any = group) -> Any:
            left = iter(operands)
            return tuple(apply(primitive, *[next(left) for _ in s.arrays], **s.attrs) for s in group)

        found = gc.compile(f)(*tensors_of(group))
        for sample, got in zip(group, found, strict=True):
            with about(sample):
                want = run(sample, primitive)
                # eager's NumPy within 4 ulp, generated mathematics within 2
                ulps = rounding_of_sum(sample) if primitive.name in SUMS else ULPS.get(primitive.name, 0) * 1.5
                assert_close(got.numpy(), want, ulps, magnitude(sample, primitive))


def test_assert_close_notices() -> None:
    """The tests' own measure: an ulp too much, a nan too few, another sign of infinity."""
    one = np.array([1.0], np.float32)
    assert_close(np.nextafter(one, np.float32(2)), one, 1)
    for wrong in (one + np.float32(1e-6), np.array([np.nan], np.float32), np.array([np.inf], np.float32)):
        with pytest.raises(AssertionError):
            assert_close(wrong, one, 1)
    with pytest.raises(AssertionError):
        assert_close(np.array([np.inf]), np.array([-np.inf]), 1)
