"""What the tests that walk the registry share: which primitives, how they are run, how close is close."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from graphc.primitive import Fact, Primitive
from graphc.tensor import Tensor, as_tensor
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
    "sigmoid": 4, "softplus": 4,
    "floor_divide": 0, "remainder": 1,
}  # fmt: skip
# Sums of products: the error bound is that of a sum, relative to the sum of magnitudes.
SUMS = {
    "cumulative_sum",
    "sum",
    "sum_to",
    "matmul",
    "conv",
    "max_pool_scatter",
    "scatter_add",
    "scatter_add_along_axis",
}


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


def magnitude(sample: Sample, primitive: Primitive) -> Array | float:
    """For sums of products: the same sum of the magnitudes, which its rounding errors are relative to."""
    if primitive.name not in SUMS:
        return 0.0
    arrays = [np.where(np.isfinite(a), np.abs(a), 0) if a.dtype.kind == "f" else a for a in sample.arrays]
    if primitive.name == "max_pool_scatter":
        arrays[1] = sample.arrays[1]  # which says where to
    return run(sample, primitive, arrays).astype(np.float64)


def rounding_of_sum(sample: Sample) -> float:
    """A probable bound of a sum's rounding errors, in ulps of its magnitude: they grow as the root of its length."""
    return 2 + max((a.size for a in sample.arrays), default=1) ** 0.5


def groups(primitive: Primitive, floats: bool) -> Iterator[list[Sample]]:
    """Samples to compile together: each compilation costs some tens of milliseconds."""
    chosen = [s for s in samples(primitive) if s.arrays or not floats]
    if floats:
        chosen = [s for s in chosen if run(s, primitive).dtype.kind == "f"][:24]
    for start in range(0, len(chosen), 32):
        yield chosen[start : start + 32]


def tensors_of(group: list[Sample]) -> list[Tensor]:
    return [as_tensor(np.array(a, order="C")) for sample in group for a in sample.arrays]
