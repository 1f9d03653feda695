"""Descriptions of layers, for `summary`: options alone, checked where they are used.

Each option is called what it is called in the function that the layer stands for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

from ._types import Padding, PerAxis


class Conv(NamedTuple):
    """A convolution, as `jaxconv.conv`, among the layers of `summary`.

    Attributes:
        features: channels that it gives.
        window: kernel sizes, a sequence with one int per axis.
        stride: as in `jaxconv.conv`.
        padding: as in `jaxconv.conv`.
        dilation: as in `jaxconv.conv`.
        groups: as in `jaxconv.conv`.
        bias: whether there is one, an entry for each channel given.
    """

    features: SupportsIndex
    window: Sequence[SupportsIndex]
    stride: PerAxis = 1
    padding: Padding = 0
    dilation: PerAxis = 1
    groups: SupportsIndex = 1
    bias: bool = True


class ConvTranspose(NamedTuple):
    """A transposed convolution, as `jaxconv.conv_transpose`, among the layers of `summary`.

    Attributes:
        features: channels that it gives.
        window: kernel sizes, a sequence with one int per axis.
        stride: as in `jaxconv.conv_transpose`.
        padding: as in `jaxconv.conv_transpose`.
        output_padding: as in `jaxconv.conv_transpose`.
        dilation: as in `jaxconv.conv_transpose`.
        groups: as in `jaxconv.conv_transpose`.
        bias: whether there is one, an entry for each channel given.
    """

    features: SupportsIndex
    window: Sequence[SupportsIndex]
    stride: PerAxis = 1
    padding: Padding = 0
    output_padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: SupportsIndex = 1
    bias: bool = True


class MaxPool(NamedTuple):
    """A pooling, as `jaxconv.max_pool`, among the layers of `summary`.

    Attributes:
        window: window sizes, a sequence with one int per axis.
        stride: as in `jaxconv.max_pool`; None means the window.
        padding: as in `jaxconv.max_pool`.
        dilation: as in `jaxconv.max_pool`.
        ceil_mode: as in `jaxconv.max_pool`.
    """

    window: Sequence[SupportsIndex]
    stride: PerAxis | None = None
    padding: Padding = 0
    dilation: PerAxis = 1
    ceil_mode: bool = False


class AvgPool(NamedTuple):
    """A pooling, as `jaxconv.avg_pool`, among the layers of `summary`.

    Attributes:
        window: window sizes, a sequence with one int per axis.
        stride: as in `jaxconv.avg_pool`; None means the window.
        padding: as in `jaxconv.avg_pool`.
        dilation: as in `jaxconv.avg_pool`.
        ceil_mode: as in `jaxconv.avg_pool`.
    """

    window: Sequence[SupportsIndex]
    stride: PerAxis | None = None
    padding: Padding = 0
    dilation: PerAxis = 1
    ceil_mode: bool = False


class AdaptiveAvgPool(NamedTuple):
    """A pooling, as `jaxconv.adaptive_avg_pool`, among the layers of `summary`.

    Attributes:
        output_shape: spatial sizes of the result, None for those that stay as they are.
    """

    output_shape: Sequence[SupportsIndex | None]


class BatchNorm(NamedTuple):
    """A batch norm, with two parameters for each channel, among the layers of `summary`."""


class Flatten(NamedTuple):
    """From here on a layer's channels and spatial axes are one axis."""


class Dense(NamedTuple):
    """A matrix product with the last axis of what is flat, among the layers of `summary`.

    Attributes:
        features: what it gives.
        bias: whether there is one.
    """

    features: SupportsIndex
    bias: bool = True


class Residual(NamedTuple):
    """The sum of two branches, which give the same shape, among the layers of `summary`.

    Attributes:
        body: the layers of one branch, a sequence.
        shortcut: those of the other; without any it is the input itself.
    """

    body: Sequence[Any]
    shortcut: Sequence[Any] = ()
