"""What follows a fold is fetched while the fold runs.

A tile reads and writes short runs of the arrays of its epilogue (a bias or a state to add, the result itself), each
from a row far from the last one: too short for the processor to fetch ahead by itself, so that it would wait for memory
at the end of each tile. The fold leaves the memory nearly idle: it is cut into runs, and before each the lines of some
of the tile's rows are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis
from graphc.runtime.loop.ir import Block, Buffer, For, Load, Prefetch, Store
from graphc.runtime.loop.nest import Nest, Stage

from .memory import LINE
from .rewrite import Rewriter, expressions, loads
from .tile import Tile, loops

UNCACHED = 128 << 10  # bytes of arrays from which on they are expected to come from afar
LEAST_STEPS = 16  # of a fold, from the lines of one row to those of the next
MOST_LINES = 64  # of a row


@dataclass(frozen=True, slots=True)
class Fetch:
    """row: of a tile, whose points are fetched one after the other. lines: what each of them needs; their offsets have
    the row's axis."""

    row: Axis
    lines: tuple[tuple[Buffer, Affine], ...]

    def along(self, loop: Axis, steps: int, body: Callable[[Affine], Block]) -> Block:
        """A serial loop, and the fetching. body: gives the loop's body for an affine form that stands for its axis.
        steps: of the fold in each iteration."""
        rows = self.row.extent
        runs = (n for n in range(1, min(rows, loop.extent) + 1) if rows % n == 0)
        count = max(n for n in runs if n == 1 or loop.extent // n * steps >= LEAST_STEPS)
        size, left = divmod(loop.extent, count)
        run, inner, rest = Axis(f"{loop.name}_run", count), Axis(loop.name, size), Axis(loop.name, left)
        some = Axis(f"{self.row.name}_next", rows // count)
        at = Rewriter({self.row.name: run * some.extent + some})
        asked = loops((some,), tuple(Prefetch(buffer, at.affine(line)) for buffer, line in self.lines), "unroll")
        found: Block = (For(run, "serial", (*asked, For(inner, "serial", body(run * size + inner)))),)
        if left:
            found += (For(rest, "serial", body(Affine((), count * size) + rest)),)
        return found


def fetch(nest: Nest, later: Sequence[Stage], rewriter: Rewriter, tile: Tile) -> Fetch | None:
    """What stages without axes, which follow a fold, need at the points of a tile, as far as it lies in runs along the
    lanes; None where it is near."""
    if tile.lanes is None or not tile.rows:
        return None
    found: list[Load | Store] = []
    for stage in later:
        found += [load for e in expressions(stage) for load in loads(e)]
        found += [store for store in stage.stores if isinstance(store, Store)]
    streams: dict[tuple[Buffer, Affine], None] = {}
    for access in found:
        offset = access.offset
        if access.mask is None and not offset.dynamic and all(map(offset.affine.coefficient, nest.outer)):
            at = rewriter.affine(offset.affine)
            if at.coefficient(tile.lanes) == 1 and access.buffer in nest.params:
                streams[access.buffer, at] = None
    if sum(b.size * b.dtype.itemsize for b in dict.fromkeys(b for b, _ in streams)) < UNCACHED:
        return None
    row, *others = sorted(tile.rows, key=lambda axis: -axis.extent)
    lines = []
    for buffer, at in streams:
        for lane in range(0, tile.lanes.extent, LINE // buffer.dtype.itemsize):
            for point in product(*(range(axis.extent) for axis in others)):
                fixed = {axis.name: Affine((), n) for axis, n in zip(others, point, strict=True)}
                lines.append((buffer, Rewriter({**fixed, tile.lanes.name: Affine((), lane)}).affine(at)))
    return Fetch(row, tuple(lines)) if len(lines) <= MOST_LINES else None
