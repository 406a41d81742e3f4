"""The works, a file for each kind; each has WORKS, and SMALL for the tests."""

from . import convolution, eager, elementwise, gpt, lenet, lstm, matmul, mlp, plain, rows, science, small

KINDS = (elementwise, plain, rows, matmul, convolution, lenet, mlp, gpt, lstm, science, small, eager)
