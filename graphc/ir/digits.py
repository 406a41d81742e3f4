"""Digits of affine indices: what reshaping does to an index, kept affine.

An element's row-major number is an affine form of its indices; its indices in another shape are digits of that
number in mixed radix: floor(number / weight) % extent. Where the axes' ranges allow, a digit is affine again.
"""

from __future__ import annotations

from .expr import Affine, Axis, Compute


class SplitAxis(Exception):  # noqa: N818 - a request, not an error
    """A digit would be affine if axis `name` were split into an outer and an inner one, the inner of extent `inner`."""

    def __init__(self, name: str, inner: int) -> None:
        super().__init__(name, inner)
        self.name, self.inner = name, inner


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours along each dimension of a dense C-order array."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def row_major(axes: tuple[Axis, ...]) -> Affine:
    """The number of a point of `axes`, in row-major order."""
    steps = row_major_strides(tuple(a.extent for a in axes))
    total = Affine()
    for axis, step in zip(axes, steps, strict=True):
        total = total + axis * step
    return total


def affine_digit(at: Affine, weight: int, extent: int, last: bool) -> Affine | None:
    """floor(at / weight) % extent as an affine form, or None if it has none. `last`: nothing stands above it.

    Raises SplitAxis if an axis straddles the digit's lower or upper end, and splitting it there helps.
    """
    high, low = _separate(at, weight)
    if high is None or low is None:
        return None
    if last:
        return high
    above, digit = _separate(high, extent)
    return None if above is None else digit


def _separate(at: Affine, weight: int) -> tuple[Affine | None, Affine | None]:
    """(at // weight, at % weight), or (None, None)."""
    high = Affine(tuple((a, c // weight) for a, c in at.terms if c % weight == 0), at.const // weight)
    low = Affine(tuple((a, c) for a, c in at.terms if c % weight), at.const % weight)
    smallest, largest = low.bounds()
    if smallest >= 0 and largest < weight:
        return high, low
    for axis, c in low.terms:
        inner = weight // c if c > 0 and weight % c == 0 else 0
        if 1 < inner < axis.extent and axis.extent % inner == 0:
            raise SplitAxis(axis.name, inner)
    return None, None


def mixed_radix(compute: Compute) -> tuple[tuple[int, tuple[tuple[Axis, int], ...]], ...] | None:
    """For each dimension of the result: (constant, ((axis, weight), ...) from the highest digit to the lowest).

    None if the target isn't of this form, as that of a scatter.
    """
    dimensions = []
    for target in compute.target:
        if not isinstance(target, Affine):
            return None
        terms = sorted(target.terms, key=lambda t: (abs(t[1]), t[0].extent), reverse=True)
        if any(c <= 0 for _, c in terms) and not (len(terms) == 1 and terms[0][1] == -1):
            return None
        dimensions.append((target.const, tuple(terms)))
    return tuple(dimensions)
