"""Graphs as text that reads back: `parse(print_graph(g))` is the same computation, node for node.

    graph(%x: f32[2,3], %y: f32[3]) {
      %2 = constant value=f32[](0x1.8p+0)
      %3 = multiply(%x, %2) : f32[2,3]
      %4 = sum(%3) axes=(1,) keepdims=False : f32[2]
      return %4
    }

Names of nodes are numbers in topological order, so that equal graphs print equally.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, Constant, Node, fresh_input, make
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
            elements = array.reshape(-1).tolist()
            text = ",".join(_number(x) for x in elements)
            return f"{dtype_of(array.dtype).short}[{','.join(map(str, array.shape))}]({text})"
        case float():
            return _number(value)
        case tuple():
            return "(" + "".join(_value(v) + "," for v in value) + ")"
        case Graph():
            return "{" + print_graph(value, "; ").replace("\n", " ") + "}"
        case _:
            return repr(value)


def _number(x: Any) -> str:
    return x.hex() if isinstance(x, float) else repr(x)


def _attrs(attrs: Mapping[str, Any]) -> str:
    return "".join(f" {name}={_value(value)}" for name, value in attrs.items())


def print_node(node: Node, names: Mapping[Node, str] | None = None) -> str:
    """One line; without names nodes are called by their serial number."""

    def name(n: Node) -> str:
        return names[n] if names is not None else f"%{n.serial}"

    if node.op is INPUT:
        return f"{name(node)} = input : {print_type(node.type)}"
    operands = ", ".join(name(n) for n in node.inputs)
    head = f"{name(node)} = {node.op.name}"
    return head + (f"({operands})" if operands else "") + _attrs(node.attrs) + f" : {print_type(node.type)}"


def print_graph(graph: Graph, separator: str = "\n", origins: bool = False) -> str:
    """The whole graph; origins=True adds the user's line to each node as a comment."""
    names = {node: f"%{i}" for i, node in enumerate([*graph.inputs, *(n for n in graph.nodes if n.op is not INPUT)])}
    head = ", ".join(f"{names[n]}: {print_type(n.type)}" for n in graph.inputs)
    lines = [f"graph({head})" + " {"]
    for node in graph.nodes:
        if node.op is not INPUT:
            comment = f"  # {node.origin}" if origins else ""
            lines.append("  " + print_node(node, names) + comment)
    lines.append("  return " + ", ".join(names[n] for n in graph.outputs))
    lines.append("}")
    return separator.join(lines)


_TYPE = re.compile(r"(\w+)\[([\d,]*)\]")
_LINE = re.compile(r"^(%\d+) = (\w+)(?:\(([^)]*)\))?(.*) : (.+)$")


def parse_type(text: str) -> TensorType:
    """f32[2,3] -> TensorType."""
    found = _TYPE.fullmatch(text.strip())
    if found is None:
        raise VerifyError(f"not a type: {text!r}")
    return TensorType(tuple(int(n) for n in found[2].split(",") if n), dtype_of(found[1]))


def parse(text: str, primitives: Mapping[str, Primitive]) -> Graph:
    """The graph that print_graph printed. primitives: the registry, by name.

    Raises VerifyError, naming the line, for text that isn't a graph. Fused nodes are printed for reading only.
    """
    lines = [line.split("  # ")[0].strip() for line in text.strip().splitlines()]
    head = re.fullmatch(r"graph\((.*)\) \{", lines[0])
    if head is None or lines[-1] != "}":
        raise VerifyError("text of a graph starts with 'graph(...) {' and ends with '}'")
    nodes: dict[str, Node] = {}
    inputs = []
    for entry in re.findall(r"(%\d+): (\w+\[[\d,]*\])", head[1]):
        node = fresh_input(entry[0][1:], parse_type(entry[1]))
        nodes[entry[0]] = node
        inputs.append(node)
    for line in lines[1:-2]:
        found = _LINE.match(line)
        if found is None or found[2] not in primitives or found[2] == FUSED.name:
            raise VerifyError(f"not a node: {line!r}")
        name, op, operands, attrs, type = found.groups()
        primitive = primitives[op]
        node = make(primitive, [nodes[n] for n in re.findall(r"%\d+", operands or "")], _parse_attrs(attrs, primitive))
        if node.type != parse_type(type):
            raise VerifyError(f"{line!r}: infers {node.type}")
        nodes[name] = node
    return Graph(inputs, [nodes[n] for n in re.findall(r"%\d+", lines[-2])])


def _parse_attrs(text: str, primitive: Primitive) -> dict[str, Any]:
    parts = re.split(r" (?=\w+=)", text)[1:]
    return {name: _parse_value(value) for name, _, value in (p.partition("=") for p in parts)}


def _parse_value(text: str) -> Any:
    constant = re.fullmatch(r"(\w+\[[\d,]*\])\((.*)\)", text)
    if constant is not None:
        type = parse_type(constant[1])
        elements = [_parse_number(x) for x in constant[2].split(",") if x]
        return Constant(np.array(elements, dtype=type.dtype.numpy).reshape(type.shape))
    if text in ("float32", "float64", "int32", "int64", "bool"):
        return dtype_of(text)
    if text.startswith("("):
        return _literal(text)
    return _parse_number(text)


def _literal(text: str) -> Any:
    """A nested tuple whose numbers may be hexadecimal floats."""
    plain = re.sub(r"-?0x[0-9a-f.]+p[+-]\d+", lambda m: repr(float.fromhex(m[0])), text)
    return ast.literal_eval(plain)


def _parse_number(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if "x" in text or text in ("inf", "-inf", "nan"):
        return float.fromhex(text)
    return int(text)
