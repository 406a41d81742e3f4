"""Movement of movement: index maps that compose to fewer, smaller or cheaper ones. No element changes."""

from __future__ import annotations

from graphc.ir.node import Node
from graphc.ir.rewrite import Rule
from graphc.ops import elementwise as ew
from graphc.ops import movement as mv
from graphc.ops import patch
from graphc.ops import reduction as red
from graphc.types import Shape


def no_op(node: Node) -> Node | None:
    """Operations that give their operand back."""
    x = node.inputs[0]
    if node.op is ew.COPY:
        return x
    if node.op is mv.CONCAT:
        return x if len(node.inputs) == 1 else None
    if node.op in (mv.RESHAPE, mv.BROADCAST_TO, mv.UNBROADCAST, mv.SLICE, mv.PAD) and x.type == node.type:
        return x if node.op is not mv.SLICE or node.attrs["step"] == (1,) * node.ndim or _ones(node.shape) else None
    if node.op is ew.ASTYPE and x.type.dtype is node.attrs["dtype"]:
        return x
    if node.op in (red.SUM, red.MAX, red.MIN) and not node.attrs["axes"] and x.type == node.type:
        return x
    if node.op is mv.PERMUTE_DIMS and node.attrs["axes"] == tuple(range(x.type.ndim)):
        return x
    if node.op is mv.FLIP and all(x.shape[a] <= 1 for a in node.attrs["axes"]):
        return x
    return None


def _ones(shape: Shape) -> bool:
    return all(n <= 1 for n in shape)


def twice(node: Node) -> Node | None:
    """reshape(reshape), permute(permute), broadcast(broadcast), flip(flip), slice(slice), pad(pad): one, or none."""
    inner = node.inputs[0]
    if inner.op is not node.op:
        return None
    x = inner.inputs[0]
    if node.op is mv.RESHAPE:
        return mv.reshape(x, node.attrs["shape"])  # type: ignore[no-any-return]
    if node.op is mv.PERMUTE_DIMS:
        return mv.permute_dims(x, [inner.attrs["axes"][a] for a in node.attrs["axes"]])  # type: ignore[no-any-return]
    if node.op is mv.BROADCAST_TO:
        return mv.broadcast_to(x, node.attrs["shape"])  # type: ignore[no-any-return]
    if node.op is mv.FLIP:
        axes = set(inner.attrs["axes"]) ^ set(node.attrs["axes"])
        return mv.flip(x, sorted(axes)) if axes else x
    if node.op is mv.SLICE:
        return _slice_of_slice(x, inner, node)
    return _pad_of_pad(x, inner, node)


def _slice_of_slice(x: Node, inner: Node, outer: Node) -> Node:
    start, stop, step = [], [], []
    rows = zip(*(side.attrs[k] for side in (inner, outer) for k in ("start", "step")), outer.shape, strict=True)
    for a, s, b, t, n in rows:
        first = a + b * s if n else a
        start.append(first)
        step.append(s * t)
        stop.append(first + (n - 1) * s * t + 1 if n else first)
    return mv.slice_(x, start, stop, step)  # type: ignore[no-any-return]


def _pad_of_pad(x: Node, inner: Node, outer: Node) -> Node | None:
    if any(outer.attrs["interior"]) or repr(inner.attrs["value"]) != repr(outer.attrs["value"]):
        return None
    low, high = ([a + b for a, b in zip(inner.attrs[k], outer.attrs[k], strict=True)] for k in ("low", "high"))
    return mv.pad(x, low, high, inner.attrs["interior"], inner.attrs["value"])  # type: ignore[no-any-return]


def permute_of_reshape(node: Node) -> Node | None:
    """A permutation of sizes 1 is a reshape, and one behind a reshape that only adds or drops sizes 1 goes before it.

    So the reshape, permute, reshape of a convolution without groups ends as one permutation.
    """
    x = node.inputs[0]
    axes = node.attrs["axes"]
    moved = [a for a in axes if x.shape[a] != 1]
    if moved == sorted(moved):
        return mv.reshape(x, node.shape)  # type: ignore[no-any-return]
    if x.op is not mv.RESHAPE:
        return None
    source = x.inputs[0]
    kept = [i for i, n in enumerate(source.shape) if n != 1]
    targets = [i for i, n in enumerate(x.shape) if n != 1]
    if [source.shape[i] for i in kept] != [x.shape[i] for i in targets]:
        return None
    place = dict(zip(targets, kept, strict=True))
    order = [place[a] for a in moved] + [i for i, n in enumerate(source.shape) if n == 1]
    return mv.reshape(mv.permute_dims(source, order), node.shape)  # type: ignore[no-any-return]


def of_one_number(node: Node) -> Node | None:
    """Whatever moves copies of one number gives copies of it."""
    x = node.inputs[0]
    if x.op is not mv.BROADCAST_TO or x.inputs[0].type.size != 1:
        return None
    return mv.broadcast_to(mv.reshape(x.inputs[0], ()), node.shape)  # type: ignore[no-any-return]


def permute_of_broadcast(node: Node) -> Node | None:
    """permute(broadcast(x)) = broadcast(permute(x)): fewer elements are moved."""
    wide = node.inputs[0]
    if wide.op is not mv.BROADCAST_TO:
        return None
    x = wide.inputs[0]
    aligned = mv.reshape(x, (1,) * (wide.ndim - x.ndim) + x.shape)
    return mv.broadcast_to(mv.permute_dims(aligned, node.attrs["axes"]), node.shape)  # type: ignore[no-any-return]


def slice_of_pad(node: Node) -> Node | None:
    """slice(pad(x)) = pad(slice(x)), with what is left of each."""
    padded = node.inputs[0]
    if padded.op is not mv.PAD or any(padded.attrs["interior"]) or any(s != 1 for s in node.attrs["step"]):
        return None
    x = padded.inputs[0]
    start, stop, low, high = [], [], [], []
    rows = zip(node.attrs["start"], node.attrs["stop"], padded.attrs["low"], x.shape, strict=True)
    for a, b, before, n in rows:
        first, last = min(max(a - before, 0), n), min(max(b - before, 0), n)
        start.append(first)
        stop.append(max(first, last))
        kept = stop[-1] - first
        low.append(min(max(before - a, 0), b - a))
        high.append(b - a - kept - low[-1])
    whole = mv.slice_(x, start, stop, [1] * x.ndim)
    return mv.pad(whole, low, high, None, padded.attrs["value"])  # type: ignore[no-any-return]


def slice_of_concat(node: Node) -> Node | None:
    """slice(concat(xs)) = slice(x), where it lies in one of them; else the others aren't joined."""
    joined = node.inputs[0]
    if joined.op is not mv.CONCAT or 0 in node.shape:
        return None
    axis = joined.attrs["axis"]
    start, stop, step = (list(node.attrs[k]) for k in ("start", "stop", "step"))
    last = start[axis] + (node.shape[axis] - 1) * step[axis]
    touched, before, skipped = [], 0, 0
    for x in joined.inputs:
        if before + x.shape[axis] <= start[axis]:
            skipped += x.shape[axis]
        elif before <= last:
            touched.append(x)
        before += x.shape[axis]
    if len(touched) == len(joined.inputs):
        return None
    start[axis], stop[axis] = start[axis] - skipped, last + 1 - skipped
    part = touched[0] if len(touched) == 1 else mv.concat(touched, axis)
    return mv.slice_(part, start, stop, step)  # type: ignore[no-any-return]


def slice_of_put(node: Node) -> Node | None:
    """A slice of what was put into an array, or of what was left of the array.

    A part that is most of the array (a grid without its border) is read from the whole, since that is what is stored.
    """
    whole = node.inputs[0]
    if whole.op is not patch.PUT_SLICE or not _by_ones(node) or not _by_ones(whole):
        return None
    x, part = whole.inputs
    (a, b), (low, high) = ((side.attrs["start"], side.attrs["stop"]) for side in (node, whole))
    rows = list(zip(a, b, low, high, strict=True))
    if any(end <= first or last <= start for start, end, first, last in rows):
        return mv.slice_(x, a, b, node.attrs["step"])  # type: ignore[no-any-return]
    small = 2 * part.type.size <= x.type.size or part.op is mv.BROADCAST_TO
    if small and all(first <= start and end <= last for start, end, first, last in rows):
        start, stop = ([n - first for n, first in zip(side, low, strict=True)] for side in (a, b))
        return mv.slice_(part, start, stop, node.attrs["step"])  # type: ignore[no-any-return]
    return None


def put_of_put(node: Node) -> Node | None:
    """What is overwritten needn't be written; what is put back where it was needn't either."""
    x, part = node.inputs
    if part.type.size == 0 or (part.op is mv.SLICE and part.inputs[0] is x and part.attrs == node.attrs):
        return x
    if x.op is not patch.PUT_SLICE:
        return None
    if x.attrs == node.attrs or (
        _by_ones(node)
        and all(map(int.__le__, node.attrs["start"], x.attrs["start"]))
        and all(map(int.__ge__, node.attrs["stop"], x.attrs["stop"]))
    ):
        return node.replace((x.inputs[0], part))
    return None


def _by_ones(node: Node) -> bool:
    return all(step == 1 for step in node.attrs["step"])


def concat_of_concat(node: Node) -> Node | None:
    """Joining along one axis is associative; parts without elements there drop out."""
    axis = node.attrs["axis"]
    parts: list[Node] = []
    for x in node.inputs:
        nested = x.op is mv.CONCAT and x.attrs["axis"] == axis
        parts.extend(x.inputs if nested and len(x.inputs) + len(parts) <= _MOST_PARTS else (x,))
    parts = [x for x in parts if x.shape[axis]] or parts[:1]
    if parts == list(node.inputs):
        return None
    return parts[0] if len(parts) == 1 else mv.concat(parts, axis)


_MOST_PARTS = 64  # a chain of concatenations would otherwise cost the square of its length


def operate_then_broadcast(node: Node) -> Node | None:
    """f(broadcast(x)) = broadcast(f(x)); operations of several operands stretch them by themselves."""
    for n in node.inputs:  # a loop: this is asked of most nodes
        if n.op is mv.BROADCAST_TO:
            break
    else:
        return None
    operands = tuple([n.inputs[0] if n.op is mv.BROADCAST_TO else n for n in node.inputs])
    return mv.broadcast_to(node.replace(operands), node.type.shape)  # type: ignore[no-any-return]


_MOVEMENT = (mv.RESHAPE, mv.PERMUTE_DIMS, mv.BROADCAST_TO, mv.FLIP, mv.SLICE, mv.PAD)
_IDENTITIES = (ew.COPY, ew.ASTYPE, *_MOVEMENT, mv.CONCAT, mv.UNBROADCAST, red.SUM, red.MAX, red.MIN)

RULES = (
    Rule("no-op", no_op, "the operand itself", ops=_IDENTITIES),
    Rule("movement of movement", twice, "one index map instead of two", ops=_MOVEMENT),
    Rule(
        "movement of one number",
        of_one_number,
        "nothing needs to be moved",
        ops=(mv.RESHAPE, mv.PERMUTE_DIMS, mv.FLIP, mv.SLICE),
    ),
    Rule("permute of reshape", permute_of_reshape, "sizes 1 can't be out of order", ops=(mv.PERMUTE_DIMS,)),
    Rule("permute of broadcast", permute_of_broadcast, "fewer elements are moved", ops=(mv.PERMUTE_DIMS,)),
    Rule("slice of pad", slice_of_pad, "what is cut off needn't be made", ops=(mv.SLICE,)),
    Rule("slice of concat", slice_of_concat, "what is cut off needn't be joined", ops=(mv.SLICE,)),
    Rule("slice of put", slice_of_put, "what was put there, or what was left", ops=(mv.SLICE,)),
    Rule("put of put", put_of_put, "what is overwritten needn't be written", ops=(patch.PUT_SLICE,)),
    Rule("concat of concat", concat_of_concat, "one copy instead of two", ops=(mv.CONCAT,)),
    Rule(
        "broadcast operand",
        operate_then_broadcast,
        "elementwise operations broadcast by themselves, and do less before it",
        ops=tuple(p for p in ew.PRIMITIVES if p.elementwise),
    ),
)
