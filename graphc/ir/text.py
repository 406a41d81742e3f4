"""Graphs as text that reads back: `parse(print_graph(g))` is the same computation, node for node.

    graph(%x: f32[2,3], %y: f32[3]) {
      %2 = constant value=f32[](0x1.8p+0)
      %3 = multiply(%x, %2) : f32[2,3]
      %4 = sum(%3) axes=(1,) keepdims=False : f32[2]
      return %4
    }

Names of nodes are numbers in topological order, so that equal graphs print equally. Floats are hexadecimal: to the
bit. An input that the graph doesn't declare is printed as a node, which doesn't parse: such a graph isn't closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphc.errors import DTypeError, VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, Constant, Node, fresh_input, make, parameter
from graphc.primitive import Primitive
from graphc.types import DType, TensorType, dtype_of


def print_type(type: Any) -> str:
    """f32[2,3]; several in parentheses."""
    return f"({', '.join(map(str, type))})" if isinstance(type, tuple) else str(type)


def _value(value: Any) -> str:
    match value:
        case DType():
            return value.name
        case Constant():
            array = value.array
            text = ",".join(map(_number, array.reshape(-1).tolist()))
            if array.dtype.kind == "f" and np.isnan(array).any():
                text = ",".join(map(_float, array.reshape(-1)))
            return f"{dtype_of(array.dtype).short}[{','.join(map(str, array.shape))}]({text})"
        case float():
            return value.hex()
        case tuple():
            return "(" + "".join(_value(v) + "," for v in value) + ")"
        case Graph():
            return "{" + print_graph(value, "; ").replace("\n", " ") + "}"
        case _:
            return repr(value)


def _number(x: Any) -> str:
    return x.hex() if isinstance(x, float) else repr(x)


def _float(x: Any) -> str:
    """A float to the bit: a NaN other than NumPy's own says its bits."""
    number = float(x).hex()
    if number != "nan":
        return number
    bits = int(x.view(f"u{x.itemsize}"))
    usual = int(x.dtype.type("nan").view(f"u{x.itemsize}"))
    return number if bits == usual else f"nan:{bits:x}"


def _attrs(attrs: Mapping[str, Any]) -> str:
    return "".join(f" {name}={_value(value)}" for name, value in attrs.items())


def print_node(node: Node, names: Mapping[Node, str] | None = None) -> str:
    """One line; without names nodes are called by their serial number."""
    if names is None:
        names = {n: f"%{n.serial}" for n in (node, *node.inputs)}
    if node.op is INPUT:
        return f"{names[node]} = input : {print_type(node.type)}"
    operands = f"({', '.join([names[n] for n in node.inputs])})" if node.inputs else ""
    attrs = _attrs(node.attrs) if node.attrs else ""
    return f"{names[node]} = {node.op.name}{operands}{attrs} : {print_type(node.type)}"


def print_graph(graph: Graph, separator: str = "\n", origins: bool = False) -> str:
    """The whole graph; origins=True adds the user's line to each node as a comment."""
    declared = set(graph.inputs)
    names = {node: f"%{i}" for i, node in enumerate([*graph.inputs, *(n for n in graph.nodes if n not in declared)])}
    head = ", ".join(f"{names[n]}: {print_type(n.type)}" for n in graph.inputs)
    lines = [f"graph({head})" + " {"]
    for node in graph.nodes:
        if node not in declared:
            comment = f"  # {node.origin}" if origins else ""
            lines.append("  " + print_node(node, names) + comment)
    lines.append("  return " + ", ".join(names[n] for n in graph.outputs))
    lines.append("}")
    return separator.join(lines)


# ------------------------------------------------------------------------------------------------ parsing

_TOKEN = re.compile(
    r"(?P<name>%\d+)|(?P<number>-?(?:0x[0-9a-f.]+p[+-]?\d+|inf|nan(?::[0-9a-f]+)?|\d+)\b)|(?P<word>\w+)|(?P<mark>[()\[\]{},=:;])"
)
_COMMENT = re.compile(r"  # .*$", re.MULTILINE)


def parse_type(text: str) -> TensorType:
    """f32[2,3] -> TensorType."""
    parser = _Parser(text, {})
    found = parser.type()
    parser.end()
    return found


def parse(text: str, primitives: Mapping[str, Primitive]) -> Graph:
    """The graph that print_graph printed. primitives: the registry, by name.

    Raises VerifyError, naming the line, for text that isn't a graph or whose types aren't what is inferred.
    """
    parser = _Parser(_COMMENT.sub("", text), {**primitives, FUSED.name: FUSED})
    graph = parser.graph(fresh_input)
    parser.end()
    return graph


def _nth_parameter(name: str, type: TensorType) -> Node:
    return parameter(int(name), type)


class _Parser:
    """Recursive descent, a method for each phrase of the grammar:

    graph  = "graph(" {name ":" type} ") {" {node} "return" {name} "}"
    node   = name "=" word ["(" {name} ")"] {word "=" value} ":" type
    value  = number | word | type "(" {number} ")" | "(" {value ","} ")" | "{" graph "}"
    type   = word "[" {number} "]" | "(" {type} ")"

    Lists are separated by commas; ";" stands for a line's end inside of a line.
    """

    def __init__(self, text: str, primitives: Mapping[str, Primitive]) -> None:
        self.text = text
        self.primitives = primitives
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            found = _TOKEN.match(text, at)
            if found is None:
                raise VerifyError(f"not a graph: {text[at : at + 20]!r} in {self._line(at)!r}")
            self.tokens.append((found.lastgroup or "", found[0], at))
            at = found.end()
        self.at = 0

    def _line(self, at: int) -> str:
        return self.text[self.text.rfind("\n", 0, at) + 1 :].split("\n", 1)[0].strip()

    def fail(self, wanted: str) -> VerifyError:
        if self.at >= len(self.tokens):
            return VerifyError(f"not a graph: expected {wanted} at the end of the text")
        _, token, at = self.tokens[self.at]
        return VerifyError(f"not a graph: expected {wanted}, not {token!r}, in {self._line(at)!r}")

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def take(self, token: str) -> None:
        if self.peek() != token:
            raise self.fail(repr(token))
        self.at += 1

    def skip(self, token: str) -> bool:
        found = self.peek() == token
        self.at += found
        return found

    def kind(self, kind: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            raise self.fail(f"a {kind}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("the end")

    def graph(self, declare: Callable[[str, TensorType], Node]) -> Graph:
        nodes: dict[str, Node] = {}
        inputs = []
        self.take("graph")
        self.take("(")
        while not self.skip(")"):
            name = self.kind("name")
            self.take(":")
            nodes[name] = declare(name[1:], self.type())
            inputs.append(nodes[name])
            self.skip(",")
        self.take("{")
        while not self.skip("return"):
            self.skip(";")
            if self.peek() != "return":
                self.node(nodes)
        outputs = []
        while not self.skip("}"):
            if not (self.skip(",") or self.skip(";")):
                outputs.append(self.known(nodes))
        return Graph(inputs, outputs)

    def known(self, nodes: Mapping[str, Node]) -> Node:
        name = self.kind("name")
        if name not in nodes:
            self.at -= 1
            raise self.fail("a node that stands above")
        return nodes[name]

    def node(self, nodes: dict[str, Node]) -> None:
        start = self.at
        name = self.kind("name")
        self.take("=")
        word = self.kind("word")
        if word not in self.primitives or word == INPUT.name:
            self.at -= 1
            raise self.fail("an operation")
        operands = []
        if self.skip("("):
            while not self.skip(")"):
                operands.append(self.known(nodes))
                self.skip(",")
        attrs: dict[str, Any] = {}
        while not self.skip(":"):
            key = self.kind("word")
            self.take("=")
            attrs[key] = self.value()
        type = self.types()
        node = make(self.primitives[word], operands, attrs)
        if node.type != type:
            raise VerifyError(f"{self._line(self.tokens[start][2])!r}: infers {print_type(node.type)}")
        nodes[name] = node

    def types(self) -> Any:
        """A type, or the tuple of types of a fused node."""
        if not self.skip("("):
            return self.type()
        found = []
        while not self.skip(")"):
            found.append(self.type())
            self.skip(",")
        return tuple(found)

    def type(self) -> TensorType:
        start = self.at
        try:
            dtype = dtype_of(self.kind("word"))
        except DTypeError:
            self.at = start
            raise self.fail("a type") from None
        shape = []
        self.take("[")
        while not self.skip("]"):
            shape.append(int(self.kind("number")))
            self.skip(",")
        return TensorType(tuple(shape), dtype)

    def value(self) -> Any:
        if self.skip("{"):
            inner = self.graph(_nth_parameter)
            self.take("}")
            return inner
        if self.skip("("):
            found = []
            while not self.skip(")"):
                found.append(self.value())
                self.take(",")
            return tuple(found)
        if self.tokens[self.at][0] == "number" if self.at < len(self.tokens) else False:
            return _number_of(self.kind("number"))
        if self.peek() in ("True", "False", "None"):
            return {"True": True, "False": False, "None": None}[self.kind("word")]
        if self.peek(1) == "[":
            return self.constant()
        try:
            return dtype_of(self.kind("word"))
        except DTypeError:
            self.at -= 1
            raise self.fail("a value") from None

    def constant(self) -> Constant:
        type = self.type()
        elements: list[Any] = []
        self.take("(")
        while not self.skip(")"):
            truth = self.peek() in ("True", "False")
            elements.append(self.kind("word") == "True" if truth else _number_of(self.kind("number")))
            self.skip(",")
        if len(elements) != type.size:
            raise self.fail(f"{type.size} elements")
        array = np.array(elements, dtype=type.dtype.numpy)
        if type.dtype.kind == "f":
            bits = array.view(f"u{type.dtype.itemsize}")
            for i, element in enumerate(elements):
                if isinstance(element, _NaN):
                    bits[i] = element.bits
        return Constant(array.reshape(type.shape))


class _NaN(float):
    """A NaN of unusual bits."""

    bits: int


def _number_of(text: str) -> Any:
    if text.startswith("nan:"):
        number = _NaN("nan")
        number.bits = int(text[4:], 16)
        return number
    if "x" in text or text.endswith(("inf", "nan")):
        return float.fromhex(text)
    return int(text)
