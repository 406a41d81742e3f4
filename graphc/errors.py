"""The errors graphc raises. One class for each kind of mistake; its docstring is its help page.

Every message says what went wrong, where, and how to mend it. All derive from `GraphcError` and
from the built-in class that a NumPy or PyTorch user would catch.
"""

from __future__ import annotations


class GraphcError(Exception):
    """Base class of every error that graphc raises on purpose."""


class ShapeError(GraphcError, ValueError):
    """Shapes that don't fit together, such as `(2, 3) + (4,)` or `(32, 64) @ (128, 10)`.

    The message names the operation, the shapes and the sizes that differ.
    """


class AxisError(GraphcError, ValueError, IndexError):
    """An axis that the array doesn't have, or one named twice."""


class DTypeError(GraphcError, TypeError):
    """A dtype that the operation can't take, such as `exp` of booleans."""


class IndexingError(GraphcError, IndexError):
    """An index out of bounds, or a kind of index that has no fixed result shape (boolean masks)."""


class AutodiffError(GraphcError, RuntimeError):
    """A derivative that can't be taken: no path to a leaf, a tape already freed, an integer leaf."""


class InplaceError(AutodiffError):
    """A value that the derivative needs was overwritten by an in-place operation.

    The message names the operation that overwrote it and the line it stands on. Mend it by writing
    `y = x + 1` instead of `x += 1`, or by calling `x.clone()` before.
    """


class AliasError(GraphcError, ValueError):
    """Two arrays that a compiled function writes in place share memory, as `a` and `a[1:]` do.

    Which write comes last would decide the result. Give each its own array: `a[1:].copy()`.
    """


class AnomalyError(AutodiffError):
    """In anomaly mode: a derivative produced NaN. The message names the forward operation's line."""


class TraceError(GraphcError, RuntimeError):
    """Code that can't be traced: Python control flow on a traced value, `.numpy()`, `.item()`, a clock.

    A traced value has a shape and a dtype but no number yet. Use `gc.where(condition, a, b)` instead
    of `if condition`, or move the branch out of the compiled function.
    """


class VerifyError(GraphcError, AssertionError):
    """A graph or loop program that breaks an invariant of the IR: a defect of a pass, not of user code.

    The message shows the window of IR around the culprit and the user's line.
    """


class CompileError(GraphcError, RuntimeError):
    """The backend could not turn a graph into machine code."""


class DeviceError(GraphcError, RuntimeError):
    """A device that isn't there, or operands that live on different devices."""


class DataError(GraphcError, RuntimeError):
    """A data file that is missing, truncated or doesn't match its checksum."""


class StateError(GraphcError, RuntimeError):
    """A state dict that doesn't fit the module or optimizer: names missing or left over, other shapes or dtypes.

    Nothing is loaded when it is raised. The message lists every name that differs.
    """


class ArgumentError(GraphcError, ValueError):
    """An argument outside of what the function takes, such as a negative learning rate or `reduction="avg"`."""
