"""graphc: one language, two modes. Write array code once; run it on the tape, or compile it to native code.

    import graphc as gc

    x = gc.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x * x).sum().backward()         # dynamic: numbers, differentiated as the program runs
    x.grad                           # tensor([2., 4., 6.])

    fast = gc.compile(gc.grad(lambda x: (x * x).sum()))
    fast(x)                          # static: the formula 2 * x, compiled

Arrays follow the Python array API standard; `nn`, `optim` and autograd follow PyTorch.
"""

from typing import TYPE_CHECKING, Any

from graphc.composed import house, set_eager_kernels
from graphc.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    tril,
    triu,
    zeros,
    zeros_like,
)
from graphc.errors import (
    AliasError,
    AnomalyError,
    AutodiffError,
    AxisError,
    CompileError,
    DataError,
    DeviceError,
    DTypeError,
    GraphcError,
    IndexingError,
    InplaceError,
    ShapeError,
    TraceError,
    VerifyError,
)
from graphc.forking import import_module
from graphc.gradcheck import gradcheck, gradgradcheck
from graphc.ir.text import print_graph
from graphc.ops.contraction import einsum
from graphc.ops.convolution import conv, conv_transpose
from graphc.ops.cumulative import cumprod, cumsum, cumulative_prod, cumulative_sum, prod
from graphc.ops.elementwise import (
    abs,
    add,
    astype,
    ceil,
    clip,
    cos,
    divide,
    equal,
    erf,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    positive,
    power,
    reciprocal,
    remainder,
    rsqrt,
    sign,
    sin,
    sqrt,
    square,
    subtract,
    tanh,
    where,
)
from graphc.ops.elementwise import power as pow
from graphc.ops.hyperbolic import cosh, sinh, tan
from graphc.ops.indexing import scatter_add, take, take_along_axis
from graphc.ops.linalg import matmul
from graphc.ops.logistic import sigmoid, softplus
from graphc.ops.marks import stop_gradient
from graphc.ops.movement import (
    broadcast_to,
    concat,
    expand_dims,
    flatten,
    flip,
    iota,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
)
from graphc.ops.pooling import avg_pool, max_pool
from graphc.ops.reduction import all, any, argmax, argmin, logsumexp, max, mean, min, std, sum, var
from graphc.ops.shifts import diff, repeat, roll, tile
from graphc.ops.sorting import argsort, sort
from graphc.records import enable_grad, no_grad, set_anomaly
from graphc.tape import Tape  # the eager mode, which importing it makes the one in force
from graphc.tensor import Tensor
from graphc.transforms import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from graphc.types import DType, TensorType, float32, float64, int32, int64
from graphc.types import bool_ as bool
from graphc.version import __version__

if TYPE_CHECKING:
    from graphc import data, nn, optim, random
    from graphc.random import manual_seed
    from graphc.runtime.compile import compile
    from graphc.runtime.cpu.threads import get_num_threads, set_num_threads


__all__ = [
    "AliasError",
    "AnomalyError",
    "AutodiffError",
    "AxisError",
    "CompileError",
    "DType",
    "DTypeError",
    "DataError",
    "DeviceError",
    "GraphcError",
    "IndexingError",
    "InplaceError",
    "ShapeError",
    "Tape",
    "Tensor",
    "TensorType",
    "TraceError",
    "VerifyError",
    "__version__",
    "abs",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "astype",
    "avg_pool",
    "bool",
    "broadcast_to",
    "ceil",
    "clip",
    "compile",
    "concat",
    "conv",
    "conv_transpose",
    "cos",
    "cosh",
    "cumprod",
    "cumsum",
    "cumulative_prod",
    "cumulative_sum",
    "data",
    "diff",
    "divide",
    "einsum",
    "empty",
    "empty_like",
    "enable_grad",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "flatten",
    "flip",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "from_dlpack",
    "full",
    "full_like",
    "get_num_threads",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "greater",
    "greater_equal",
    "hessian",
    "hvp",
    "int32",
    "int64",
    "iota",
    "isfinite",
    "isinf",
    "isnan",
    "jacobian",
    "jvp",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "logsumexp",
    "manual_seed",
    "matmul",
    "matrix_transpose",
    "max",
    "max_pool",
    "maximum",
    "mean",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "negative",
    "nn",
    "no_grad",
    "not_equal",
    "ones",
    "ones_like",
    "optim",
    "pad",
    "permute_dims",
    "positive",
    "pow",
    "power",
    "print_graph",
    "prod",
    "random",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "roll",
    "rsqrt",
    "scatter_add",
    "set_anomaly",
    "set_eager_kernels",
    "set_num_threads",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softplus",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "stop_gradient",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensor",
    "tile",
    "tril",
    "triu",
    "value_and_grad",
    "var",
    "vjp",
    "where",
    "zeros",
    "zeros_like",
]

_KERNELS = "graphc.runtime.eager"  # entered when eager mode first has much to do
house.provide(lambda: import_module(_KERNELS).kernels)

# Rooms that `import graphc` doesn't enter: each is imported when its name is first used.
_LATER = {
    "load": "graphc.nn.saving",
    "save": "graphc.nn.saving",
    "compile": "graphc.runtime.compile",
    "data": "graphc.data",
    "get_num_threads": "graphc.runtime.cpu.threads",
    "manual_seed": "graphc.random",
    "nn": "graphc.nn",
    "optim": "graphc.optim",
    "random": "graphc.random",
    "set_num_threads": "graphc.runtime.cpu.threads",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}")
    module = import_module(_LATER[name])
    value = globals()[name] = getattr(module, name, module)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
