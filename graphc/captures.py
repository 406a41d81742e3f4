"""What a trace consists of: the graph, where each of its inputs comes from, and where its outputs go."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from graphc.frozen import dataclass
from graphc.guards import Guard
from graphc.ir.graph import Graph
from graphc.optim import optimizer as optim
from graphc.tensor import Tensor
from graphc.tree import Structure


@dataclass(frozen=True, slots=True, eq=False)
class ArgumentSource:
    """Leaf number `position` of the call's flattened arguments."""

    position: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorSource:
    """A tensor that the function closed over: read, and perhaps written in place."""

    tensor: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """A NumPy array that the function closed over: read anew at each call."""

    array: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class NumberSource:
    """A number in an optimizer's parameter group, read anew at each call (see optim.hyper)."""

    group: optim.ParamGroup
    key: str | tuple[str, int]

    def read(self) -> float:
        if isinstance(self.key, str):
            return float(self.group[self.key])
        return float(self.group[self.key[0]][self.key[1]])


@dataclass(frozen=True, slots=True, eq=False)
class GradSource:
    """The `.grad` of another source's tensor, whichever tensor that is at each call."""

    owner: ArgumentSource | TensorSource


Source: TypeAlias = ArgumentSource | TensorSource | ArraySource | NumberSource | GradSource


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One leaf of the returned value: graph output number `output`, an argument, or a Python object as it is.

    argument: the position of the call's argument that is returned itself.
    differentiable: whether the caller may differentiate it further (its history wasn't used up by a backward).
    """

    output: int | None
    value: Any = None
    differentiable: bool = False
    argument: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A traced call. graph.inputs[i] comes from sources[i]; graph.outputs are results, then writes, then grads.

    writes: (input number, output number): the output replaces the input's elements.
    grads: (source, output number): the output becomes `.grad` of that tensor; None clears it.
    """

    graph: Graph
    sources: tuple[Source, ...]
    structure: Structure
    results: tuple[Result, ...]
    writes: tuple[tuple[int, int], ...]
    grads: tuple[tuple[Source, int | None], ...]
    guards: tuple[Guard, ...]
