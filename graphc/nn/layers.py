"""Layers: modules that hold parameters or settings and call graphc.nn.functional. Arguments as in torch.nn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.creation import zeros
from graphc.dispatch import dtype_of_value, shape_of
from graphc.errors import ArgumentError, ShapeError
from graphc.nn import functional as F
from graphc.nn import init
from graphc.nn.module import Module
from graphc.nn.parameter import unset
from graphc.ops.elementwise import astype, divide
from graphc.ops.movement import flatten
from graphc.primitive import Value
from graphc.records import no_grad
from graphc.tensor import Tensor
from graphc.types import DEFAULT_FLOAT, dtype_of, int64

Pair = int | Sequence[int]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class Linear(Module):
    """x @ weight.T + bias. (..., in_features) -> (..., out_features).

    weight: (out_features, in_features) and bias: (out_features,), both uniform in +-1/sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = unset((out_features, in_features), dtype)
        self.bias = unset((out_features,), dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_(self.weight, self.bias)

    def forward(self, x: Value) -> Value:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Conv2d(Module):
    """Convolution in two dimensions. (batch, in_channels, h, w) -> (batch, out_channels, oh, ow).

    weight: (out_channels, in_channels // groups, kh, kw) and bias: (out_channels,), both uniform in
    +-1/sqrt(fan_in), fan_in = in_channels // groups * kh * kw. padding: a number, one each, "valid" or "same".
    Raises ArgumentError if groups doesn't divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: str | Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(f"Conv2d: groups={groups} must divide {in_channels} and {out_channels} channels.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = unset(shape, dtype)
        self.bias = unset((out_channels,), dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_(self.weight, self.bias)

    def forward(self, x: Value) -> Value:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0, 0), "valid"):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else f"{text}, bias=False"


class MaxPool2d(Module):
    """The largest element of each window; see functional.max_pool2d."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.padding, self.dilation, self.ceil_mode = kernel_size, padding, dilation, ceil_mode
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Value) -> Value:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window; see functional.avg_pool2d."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True
    ) -> None:
        self.kernel_size, self.padding, self.count_include_pad = kernel_size, padding, count_include_pad
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Value) -> Value:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Value) -> Value:
        return F.relu(x)


class GELU(Module):
    """x * Phi(x). approximate: "none" (erf) or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Value) -> Value:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: Value) -> Value:
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Value) -> Value:
        return F.sigmoid(x)


class Softmax(Module):
    """softmax along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Value) -> Value:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """log softmax along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Value) -> Value:
        return F.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LayerNorm(Module):
    """Normalisation over the trailing dimensions `normalized_shape`; weight starts at 1 and bias at 0."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        has_bias = elementwise_affine and bias
        self.weight = unset(shape, dtype) if elementwise_affine else None
        self.bias = unset(shape, dtype) if has_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Value) -> Value:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}"


class _BatchNorm(Module):
    """Normalisation of each channel over the batch and all dimensions behind the channels.

    weight: (num_features,), starts at 1; bias starts at 0. Buffers running_mean (0 at the start), running_var (1) and
    num_batches_tracked, the number of calls in training; see functional.batch_norm. momentum: None averages over all
    calls. Without track_running_stats evaluation normalises by the batch as well.
    """

    dimensions: tuple[int, ...] = ()  # how many an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = unset((num_features,), dtype) if affine else None
        self.bias = unset((num_features,), dtype) if affine else None
        kind = dtype_of(dtype or DEFAULT_FLOAT)
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros((num_features,), kind) if tracked else None)
        self.register_buffer("running_var", zeros((num_features,), kind) if tracked else None)
        self.register_buffer("num_batches_tracked", zeros((), int64) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to 1 and num_batches_tracked to 0."""
        with no_grad():
            if self.running_mean is not None:
                self.running_mean.zero_()
            if self.running_var is not None:
                self.running_var.fill_(1)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Forget the running statistics, and set weight to 1 and bias to 0."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Value) -> Value:
        shape = shape_of(x)
        if len(shape) not in self.dimensions or shape[1] != self.num_features:
            wanted = " or ".join(f"{n}-d" for n in self.dimensions)
            raise ShapeError(f"{type(self).__name__}: input {shape}: expected {wanted}, {self.num_features} channels.")
        tracked = self.num_batches_tracked
        momentum: Value = self.momentum
        if self.training and tracked is not None:
            with no_grad():
                tracked.add_(1)
                if momentum is None:
                    momentum = divide(1.0, astype(tracked, dtype_of_value(x)))
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or tracked is None,
            0.0 if momentum is None else momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (batch, num_features) or (batch, num_features, length), channel by channel.

    Arguments, parameters and buffers are those of functional.batch_norm; weight and running_var start at 1, bias and
    running_mean at 0.
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (batch, num_features, height, width), channel by channel; see BatchNorm1d."""

    dimensions = (4,)


class Embedding(Module):
    """Rows of a table. (...) int -> (..., embedding_dim).

    weight: (num_embeddings, embedding_dim), normal(0, 1). padding_idx: that row is 0 and gets no derivative.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: Any = None,
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ArgumentError(f"Embedding: padding_idx={padding_idx} isn't a row of {num_embeddings}.")
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        shape = (num_embeddings, embedding_dim)
        self.weight = unset(shape, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    def forward(self, indices: Value) -> Value:
        return F.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"


class Dropout(Module):
    """In training, zeros each element with probability p and scales the others by 1/(1-p); else nothing."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ArgumentError(f"Dropout: p={p} must be a probability.")
        self.p = p

    def forward(self, x: Value) -> Value:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """Dimensions start_dim to end_dim (inclusive) merged into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Value) -> Value:
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """x itself."""

    def forward(self, x: Value) -> Value:
        return x


class CrossEntropyLoss(Module):
    """functional.cross_entropy with its settings."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, logits: Value, target: Value) -> Value:
        return F.cross_entropy(
            logits, target, vars(self)["weight"], self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(Module):
    """functional.nll_loss with its settings."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, log_probabilities: Value, target: Value) -> Value:
        return F.nll_loss(log_probabilities, target, vars(self)["weight"], self.ignore_index, self.reduction)


class MSELoss(Module):
    """functional.mse_loss with its reduction."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, x: Value, target: Value) -> Value:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(Module):
    """functional.l1_loss with its reduction."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, x: Value, target: Value) -> Value:
        return F.l1_loss(x, target, self.reduction)
