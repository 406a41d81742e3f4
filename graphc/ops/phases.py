"""Strided windows as affine loops: which positions p and taps k meet which element.

Convolution with a dilated left side and the scatter of a strided pooling both ask for the integer solutions of

    step * p + reach * k - start = every * index,      0 <= p < positions, 0 <= k < taps, 0 <= index < extent.

Looping over all p and k and testing divisibility wastes `every` - 1 of `every` iterations and reads through a
division. Splitting p into phases (p = period * p' + phase) makes k and the index affine again: for each phase
only the taps of one residue class meet an element (polyphase decomposition, as in signal processing).
"""

from __future__ import annotations

from math import gcd

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Expr, Index, Literal, affine, call, within
from graphc.types import int64


@dataclass(frozen=True, slots=True)
class Phased:
    """One spatial dimension of a windowed operation.

    axes: what p runs over. taps: what k runs over, nothing where each p meets one k.
    position, tap: p and k as affine forms of them.
    index: the element met (an Expr with a division only where no affine form exists).
    solvable: the condition for (p, k) to solve the equation with a tap in range; None if they always do.
    inside: the condition for the index to be in range (elsewhere is padding); None if it always is.
    """

    axes: tuple[Axis, ...]
    taps: tuple[Axis, ...]
    position: Affine
    tap: Affine
    index: Affine | Expr
    solvable: Expr | None
    inside: Expr | None


def phased(
    label: str, positions: int, taps: int, extent: int, *, step: int, reach: int, start: int, every: int
) -> Phased:
    """The loops for step*p + reach*k - start = every*index. `label` tells dimensions apart in axis names."""
    if every > 1 and gcd(reach, every) == 1:
        period = every // gcd(step, every)
        if positions % period == 0:
            return _split(label, positions, taps, extent, step, reach, start, every, period)
    p, k = Axis(f"p{label}", positions), Axis(f"k{label}", taps)
    met = p * step + k * reach - start
    if every == 1:
        return Phased((p,), (k,), affine(p), affine(k), met, None, within(met, extent))
    divisor = Literal(every, int64)
    whole = call("eq", call("mod", Index(met), divisor), Literal(0, int64))
    inside = within(met, (extent - 1) * every + 1)
    return Phased((p,), (k,), affine(p), affine(k), call("floordiv", Index(met), divisor), whole, inside)


def _split(
    label: str, positions: int, taps: int, extent: int, step: int, reach: int, start: int, every: int, period: int
) -> Phased:
    """The affine form: k = first - slope*phase + every*k', with k' over as few values as cover all taps."""
    inverse = pow(reach, -1, every)
    first, slope = inverse * start % every, inverse * step % every

    def rounds(slope: int) -> tuple[int, int]:
        """First and last k' for which some phase has its tap within range."""
        ends = (first, first - slope * (period - 1))
        return -(max(ends) // every), (taps - 1 - min(ends)) // every

    # Both representatives of the residue solve the equation; one may need a round less (2x2 pooling: none wasted).
    slope = min((slope, slope - every), key=lambda s: rounds(s)[1] - rounds(s)[0])
    lowest, highest = rounds(slope)
    p, phase = Axis(f"p{label}", positions // period), Axis(f"q{label}", period)
    k = Axis(f"k{label}", max(highest - lowest + 1, 0))
    axes = (p, phase) if period > 1 else (p,)
    ks = (k,) if k.extent != 1 else ()
    remainder, turn = affine(phase if period > 1 else 0), affine(k if ks else 0) + lowest
    position = p * period + remainder
    tap = turn * every + first - remainder * slope
    index = (
        p * (step * period // every)
        + remainder * ((step - reach * slope) // every)
        + turn * reach
        + (reach * first - start) // every
    )
    return Phased(axes, ks, position, tap, index, within(tap, taps), within(index, extent))
