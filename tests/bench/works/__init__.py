"""The works, a file for each kind; each has WORKS, and SMALL for the tests."""

from . import elementwise, gpt, lstm, matmul, mlp, rows, science, small

KINDS = (elementwise, rows, matmul, mlp, gpt, lstm, science, small)
