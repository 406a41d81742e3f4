"""einsum: sums of products named by letters, as products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.dispatch import shape_of
from graphc.errors import ShapeError
from graphc.ops.elementwise import multiply
from graphc.ops.indexing import take
from graphc.ops.linalg import matmul
from graphc.ops.movement import permute_dims, reshape
from graphc.ops.reduction import sum
from graphc.primitive import Value


def einsum(subscripts: str, /, *operands: Value) -> Value:
    """Products of the operands' elements, summed over the letters that the result doesn't name; as numpy.einsum.

    "ij,jk->ik" is a product of matrices, "ii->i" a diagonal, "bij,bj->bi" one of each batch. Without "->" the result
    has the letters that occur once, in alphabetical order. Operands are contracted from left to right.
    Raises ShapeError for letters that don't fit the operands, and for an ellipsis, which must be spelt out.
    """
    names, result = _parsed(subscripts, operands)
    sizes: dict[str, int] = {}
    for letters, x in zip(names, operands, strict=True):
        for letter, n in zip(letters, shape_of(x), strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ShapeError(f"einsum {subscripts!r}: {letter} is {sizes[letter]} and {n} elements long.")
    left, value = "", None
    for number, (letters, x) in enumerate(zip(names, operands, strict=True)):
        later = set(result).union(*names[number + 1 :])
        letters, x = _diagonal(letters, x)
        letters, x = _summed(letters, x, later | set(left))
        if value is None:
            left, value = letters, x
            continue
        left, value = _summed(left, value, later | set(letters))
        left, value = _product(left, value, letters, x, later, sizes)
    left, value = _summed(left, value, set(result))
    return permute_dims(value, [left.index(letter) for letter in result])


def _parsed(subscripts: str, operands: Sequence[Value]) -> tuple[list[str], str]:
    """The letters of each operand and of the result."""
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    names = given.split(",")
    if not arrow:
        result = "".join(sorted(c for c in set(given) - {","} if given.count(c) == 1))
    if not all(c.isalpha() for c in "".join(names) + result):
        raise ShapeError(f"einsum {subscripts!r}: letters, commas and one -> are understood; spell an ellipsis out.")
    if len(names) != len(operands):
        raise ShapeError(f"einsum {subscripts!r} is about {len(names)} arrays, and was given {len(operands)}.")
    for letters, x in zip(names, operands, strict=True):
        if len(letters) != len(shape_of(x)):
            raise ShapeError(f"einsum {subscripts!r}: {letters!r} names {len(letters)} axes of shape {shape_of(x)}.")
    if len(set(result)) != len(result) or not set(result) <= set(given):
        raise ShapeError(f"einsum {subscripts!r}: the result's letters must be different ones of the operands'.")
    return names, result


def _diagonal(letters: str, x: Value) -> tuple[str, Value]:
    """Where two axes have one letter, their diagonal."""
    for letter in sorted(set(letters)):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            rest = [i for i in range(len(letters)) if i not in (first, second)]
            n = shape_of(x)[first]
            together = permute_dims(x, (*rest, first, second))
            flat = reshape(together, (*shape_of(together)[:-2], n * n))
            x = take(flat, np.arange(n) * (n + 1), axis=len(rest))
            letters = "".join(letters[i] for i in rest) + letter
    return letters, x


def _summed(letters: str, x: Value, wanted: set[str]) -> tuple[str, Value]:
    """Without the letters that nothing else needs."""
    axes = [i for i, letter in enumerate(letters) if letter not in wanted]
    return "".join(c for c in letters if c in wanted), sum(x, axis=axes) if axes else x


def _product(a: str, x: Value, b: str, y: Value, wanted: set[str], sizes: dict[str, int]) -> tuple[str, Value]:
    """Two operands multiplied, and summed over the letters that they share and nobody needs any more."""
    shared = [c for c in a if c in b]
    batch = [c for c in shared if c in wanted]
    folded = [c for c in shared if c not in wanted]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
    left = permute_dims(x, [a.index(c) for c in (*batch, *rows, *folded)])
    right = permute_dims(y, [b.index(c) for c in (*batch, *folded, *columns)])
    depth, m, n = (math.prod(sizes[c] for c in part) for part in (batch, rows, columns))
    letters = "".join((*batch, *rows, *columns))
    shape = [sizes[c] for c in letters]
    if not folded:
        product = multiply(reshape(left, (depth, m, 1)), reshape(right, (depth, 1, n)))
    else:
        k = math.prod(sizes[c] for c in folded)
        product = matmul(reshape(left, (depth, m, k)), reshape(right, (depth, k, n)))
    return letters, reshape(product, shape)
