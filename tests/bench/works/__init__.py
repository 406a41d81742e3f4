"""The works, a file for each kind; each has WORKS, and SMALL for the tests."""

from . import elementwise, gpt, lstm, rows

KINDS = (elementwise, rows, gpt, lstm)
