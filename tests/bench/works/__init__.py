"""The works, a file for each kind; each has WORKS, and SMALL for the tests."""

from . import eager, elementwise, gpt, lstm, matmul, mlp, plain, rows, science, small

KINDS = (elementwise, plain, rows, matmul, mlp, gpt, lstm, science, small, eager)
