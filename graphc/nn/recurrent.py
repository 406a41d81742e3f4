"""Recurrent layers, in PyTorch's conventions: the names and shapes of parameters, the order of gates, of layers and
directions, `batch_first`, initial states, inputs without a batch.

The products of all steps' inputs with `weight_ih` are one product before the loop; a step multiplies its state only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from graphc.dispatch import dtype_of_value, number_like, shape_of
from graphc.errors import ArgumentError, ShapeError
from graphc.nn import functional as F
from graphc.nn import init
from graphc.nn.module import Module
from graphc.nn.parameter import Parameter, unset
from graphc.ops.elementwise import add, multiply, subtract, tanh
from graphc.ops.linalg import matmul
from graphc.ops.logistic import sigmoid
from graphc.ops.movement import broadcast_to, concat, matrix_transpose, narrow, reshape, stack, swapaxes
from graphc.primitive import Value

State: TypeAlias = tuple[Value, ...]
# (weights of inputs times inputs, weights of the state times the state, state) -> the next state
Advance: TypeAlias = Callable[[Value, Value, State], State]


def lstm_step(inputs: Value, hidden: Value, state: State) -> State:
    """(h, c) after one step of a long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates).

    inputs, hidden: (batch, 4 * size), biases included; gates in the order i, f, g, o. state: (h, c).
    """
    i, f, g, o = _gates(add(inputs, hidden), 4)
    c = add(multiply(sigmoid(f), state[1]), multiply(sigmoid(i), tanh(g)))
    return multiply(sigmoid(o), tanh(c)), c


def gru_step(inputs: Value, hidden: Value, state: State) -> State:
    """(h,) after one step of a gated recurrent unit (Cho et al. 2014), the reset gate after the product.

    inputs, hidden: (batch, 3 * size), biases included; gates in the order r, z, n. state: (h,).
    """
    (r, z, n), (hr, hz, hn) = _gates(inputs, 3), _gates(hidden, 3)
    z = sigmoid(add(z, hz))
    n = tanh(add(n, multiply(sigmoid(add(r, hr)), hn)))
    return (add(n, multiply(z, subtract(state[0], n))),)  # (1 - z) * n + z * h


def tanh_step(inputs: Value, hidden: Value, state: State) -> State:
    """(h,) after one step of Elman's network (1990): tanh(inputs + hidden)."""
    return (tanh(add(inputs, hidden)),)


def relu_step(inputs: Value, hidden: Value, state: State) -> State:
    """(h,) after one step: relu(inputs + hidden)."""
    return (F.relu(add(inputs, hidden)),)


def _gates(x: Value, count: int) -> list[Value]:
    size = shape_of(x)[-1] // count
    return [narrow(x, -1, k * size, size) for k in range(count)]


def _plain_step(nonlinearity: str) -> Advance:
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity={nonlinearity!r}: expected 'tanh' or 'relu'.")
    return tanh_step if nonlinearity == "tanh" else relu_step


def _zeros(like: Value, shape: Sequence[int]) -> Value:
    return broadcast_to(number_like(like, 0, dtype_of_value(like)), tuple(shape))


def _uniform(parameters: Sequence[Parameter], size: int) -> None:
    bound = 1 / math.sqrt(size) if size else 0.0
    for parameter in parameters:
        init.uniform_(parameter, -bound, bound)


# ------------------------------------------------------------------------------------------------ cells


class _Cell(Module):
    """One step of one layer. weight_ih: (gates * hidden_size, input_size), weight_hh: (gates * hidden_size,
    hidden_size), bias_ih and bias_hh: (gates * hidden_size,); all uniform in +-1/sqrt(hidden_size)."""

    gates: ClassVar[int]
    states: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = None) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih, self.weight_hh = unset((rows, input_size), dtype), unset((rows, hidden_size), dtype)
        self.bias_ih = unset((rows,), dtype) if bias else None
        self.bias_hh = unset((rows,), dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases anew."""
        _uniform(list(self.parameters(recurse=False)), self.hidden_size)

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        """The next state."""
        raise NotImplementedError

    def _next(self, x: Value, state: State | None) -> State:
        """The next state. x: (batch, input_size) or (input_size,). state: zeros if None."""
        shape = shape_of(x)
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            name = type(self).__name__
            raise ShapeError(f"{name}: input {shape}: expected (batch, {self.input_size}) or ({self.input_size},).")
        wide = (*shape[:-1], self.hidden_size)
        state = (_zeros(x, wide),) * self.states if state is None else state
        if any(shape_of(s) != wide for s in state):
            raise ShapeError(f"{type(self).__name__}: state {[shape_of(s) for s in state]}: expected {wide}.")
        return self.advance(
            F.linear(x, self.weight_ih, self.bias_ih), F.linear(state[0], self.weight_hh, self.bias_hh), state
        )

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias_ih is not None else f"{text}, bias=False"


class _OneStateCell(_Cell):
    """A cell whose state is the hidden one alone."""

    states = 1

    def forward(self, x: Value, hx: Value | None = None) -> Value:
        return self._next(x, None if hx is None else (hx,))[0]


class RNNCell(_OneStateCell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu. (batch, input_size), (batch, hidden_size) -> the latter."""

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", dtype: Any = None
    ) -> None:
        _plain_step(nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, dtype)

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return _plain_step(self.nonlinearity)(inputs, hidden, state)


class GRUCell(_OneStateCell):
    """One step of a GRU. (batch, input_size), (batch, hidden_size) -> (batch, hidden_size)."""

    gates = 3

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return gru_step(inputs, hidden, state)


class LSTMCell(_Cell):
    """One step of an LSTM. (batch, input_size), (h, c) -> (h, c), each (batch, hidden_size)."""

    gates, states = 4, 2

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return lstm_step(inputs, hidden, state)

    def forward(self, x: Value, hx: tuple[Value, Value] | None = None) -> tuple[Value, Value]:
        h, c = self._next(x, hx)
        return h, c


# ----------------------------------------------------------------------------------------------- layers


class _Recurrent(Module):
    """Layers of steps, each in one or two directions.

    Parameters of layer k: weight_ih_lk (gates * hidden_size, inputs), weight_hh_lk (gates * hidden_size,
    hidden_size), bias_ih_lk, bias_hh_lk (gates * hidden_size,), and the same with `_reverse`; all uniform in
    +-1/sqrt(hidden_size). The inputs of a layer after the first are the outputs of both directions before it.
    dropout: in training, on the outputs of every layer but the last.
    """

    gates: ClassVar[int]
    states: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        if not 0 <= dropout <= 1:
            raise ArgumentError(f"{type(self).__name__}: dropout={dropout} must be a probability.")
        if num_layers < 1:
            raise ArgumentError(f"{type(self).__name__}: num_layers={num_layers} must be at least 1.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            inputs = hidden_size * self._directions if layer else input_size
            for tail in self._tails(layer):
                self.register_parameter(f"weight_ih{tail}", unset((rows, inputs), dtype))
                self.register_parameter(f"weight_hh{tail}", unset((rows, hidden_size), dtype))
                for name in ("bias_ih", "bias_hh") if bias else ():
                    self.register_parameter(f"{name}{tail}", unset((rows,), dtype))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _tails(self, layer: int) -> tuple[str, ...]:
        return (f"_l{layer}", f"_l{layer}_reverse")[: self._directions]

    def reset_parameters(self) -> None:
        """Draw weights and biases anew."""
        _uniform(list(self.parameters(recurse=False)), self.hidden_size)

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        """The next state."""
        raise NotImplementedError

    def _run(self, x: Value, state: State | None) -> tuple[Value, State]:
        """(output, last state). x: (steps, batch, inputs), (batch, steps, inputs) if batch_first, or without batch."""
        name, shape = type(self).__name__, shape_of(x)
        if len(shape) not in (2, 3) or shape[-1] != self.input_size:
            order = "batch, steps" if self.batch_first else "steps, batch"
            raise ShapeError(f"{name}: input {shape}: expected ({order}, {self.input_size}), or without batch.")
        batched = len(shape) == 3
        if not batched:
            x = reshape(x, (shape[0], 1, shape[1]))
        elif self.batch_first:
            x = swapaxes(x, 0, 1)
        steps, batch, _ = shape_of(x)
        if steps == 0:
            raise ShapeError(f"{name}: input {shape} has no steps.")
        wide = (self.num_layers * self._directions, batch, self.hidden_size)
        given = wide if batched else (wide[0], wide[2])
        if state is not None and any(shape_of(s) != given for s in state):
            raise ShapeError(f"{name}: initial state {[shape_of(s) for s in state]}: expected {given}.")
        starts = [self._start(x, None if state is None else state[k], wide) for k in range(self.states)]
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, tail in enumerate(self._tails(layer)):
                start = tuple(s[layer * self._directions + direction] for s in starts)
                output, end = self._layer(x, tail, start, backwards=direction == 1)
                outputs.append(output)
                ends.append(end)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, -1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        last = tuple(stack([end[k] for end in ends]) for k in range(self.states))
        if not batched:
            return reshape(x, (steps, -1)), tuple(reshape(s, given) for s in last)
        return swapaxes(x, 0, 1) if self.batch_first else x, last

    def _start(self, x: Value, state: Value | None, wide: tuple[int, int, int]) -> list[Value]:
        """The initial state of each layer and direction, (batch, hidden_size)."""
        if state is None:
            return [_zeros(x, wide[1:])] * wide[0]
        state = reshape(state, wide)
        return [reshape(narrow(state, 0, k, 1), wide[1:]) for k in range(wide[0])]

    def _layer(self, x: Value, tail: str, state: State, backwards: bool) -> tuple[Value, State]:
        """(outputs (steps, batch, hidden_size), last state) of one direction of one layer."""
        own = vars(self)
        inputs = F.linear(x, own[f"weight_ih{tail}"], own.get(f"bias_ih{tail}"))
        steps, batch, rows = shape_of(inputs)
        weight, bias = matrix_transpose(own[f"weight_hh{tail}"]), own.get(f"bias_hh{tail}")
        outputs: list[Value] = []
        for step in reversed(range(steps)) if backwards else range(steps):
            hidden = matmul(state[0], weight)
            hidden = hidden if bias is None else add(hidden, bias)
            state = self.advance(reshape(narrow(inputs, 0, step, 1), (batch, rows)), hidden, state)
            outputs.append(state[0])
        return stack(outputs[::-1] if backwards else outputs), state

    def extra_repr(self) -> str:
        settings = (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        )
        told = [f"{name}={getattr(self, name)}" for name, usual in settings if getattr(self, name) != usual]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *told])


class _OneState(_Recurrent):
    """Layers whose state is the hidden one alone."""

    states = 1

    def forward(self, x: Value, hx: Value | None = None) -> tuple[Value, Value]:
        output, (h,) = self._run(x, None if hx is None else (hx,))
        return output, h


class RNN(_OneState):
    """Elman's network with tanh, or relu. Returns (output, h): all steps' states of the last layer, and the last ones.

    x: (steps, batch, input_size), (batch, steps, input_size) if batch_first, or (steps, input_size). output: the same
    with hidden_size (twice that if bidirectional). h and hx: (num_layers * directions, [batch,] hidden_size).
    Raises ShapeError.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        _plain_step(nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return _plain_step(self.nonlinearity)(inputs, hidden, state)


class GRU(_OneState):
    """Gated recurrent units. Returns (output, h); shapes as of RNN."""

    gates = 3

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return gru_step(inputs, hidden, state)


class LSTM(_Recurrent):
    """Long short-term memory. Returns (output, (h, c)); hx: (h, c); shapes as of RNN."""

    gates, states = 4, 2

    def advance(self, inputs: Value, hidden: Value, state: State) -> State:
        return lstm_step(inputs, hidden, state)

    def forward(self, x: Value, hx: tuple[Value, Value] | None = None) -> tuple[Value, tuple[Value, Value]]:
        output, (h, c) = self._run(x, hx)
        return output, (h, c)
