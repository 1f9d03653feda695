"""What one layer of `summary` makes of an image: its shape, its cost, the call that it stands for.

One function for each description of `_layers`. Integers only; the call is kept to be traced, so
that what computes it is what the table chooses for it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from . import _check
from ._adaptive import adaptive_avg_pool
from ._conv import conv, conv_transpose
from ._geometry import Geometry, conv_geometry, extents, pool_geometry, transpose_geometry
from ._layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    MaxPool,
)
from ._layout import Layout
from ._pool import avg_pool, max_pool
from ._sizes import ReceptiveField, apart, through
from ._summary import Shape


class Window(NamedTuple):
    """What a plain tuple is: a window over every channel, whatever is done with what it holds."""

    window: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1


class Image(NamedTuple):
    """What goes from layer to layer.

    Attributes:
        shape: with batch axes and channels.
        field: what one element sees.
        layout: None for what is flat.
    """

    shape: Shape
    field: ReceptiveField | None
    layout: Layout | None

    def parts(self) -> tuple[Layout, Shape, int, Shape]:
        """The layout, and by it the batch axes, the channels and the spatial sizes."""
        order = self.layout
        if order is None:
            raise ValueError(f"an image is needed, before all is flat; got shape {self.shape}")
        return order, order.batch(self.shape), order.channels(self.shape), order.spatial(self.shape)


class Step(NamedTuple):
    """What a layer does.

    Attributes:
        image: what it gives.
        parameters, multiply_adds: as in `Row`.
        call: the function of jaxconv's that computes it, without its arrays.
        operands: the shapes of the arrays that `call` takes beside the image.
    """

    image: Image
    parameters: int = 0
    multiply_adds: int = 0
    call: Callable[..., Any] | None = None
    operands: tuple[Shape, ...] = ()


def _convolution(layer: Conv, image: Image) -> Step:
    order, batch, channels, spatial = image.parts()
    features, window, options = _kernel(layer, order)
    groups = options["groups"]
    _check_groups(groups, channels, features)
    geometry = conv_geometry(spatial, window, source="its input", **options)
    kernel = order.kernel(features, channels // groups, window)
    result = Image(
        order.image(batch, features, geometry.output), _seen(image.field, geometry), order
    )
    bias = [(features,)] * _check.flag("bias", layer.bias)
    return Step(
        result,
        math.prod(kernel) + features * len(bias),
        math.prod(batch) * math.prod(geometry.output) * math.prod(kernel),
        functools.partial(conv, layout=order.name, **options),
        (kernel, *bias),
    )


def _transposed(layer: ConvTranspose, image: Image) -> Step:
    order, batch, channels, spatial = image.parts()
    features, window, options = _kernel(layer, order)
    groups, stride, dilation = options["groups"], options["stride"], options["dilation"]
    _check_groups(groups, channels, features)
    extra = _check.per_axis("output_padding", layer.output_padding, order.rank, 0)
    geometry = transpose_geometry(
        spatial, window, output_padding=extra, source="its input", **options
    )
    kernel = order.kernel(channels, features // groups, window)
    field = None if image.field is None else apart(image.field, stride)
    if field is not None:
        extent = extents(window, dilation)
        low = (e - 1 - before for e, (before, _) in zip(extent, geometry.padding, strict=True))
        field = through(field, extent, (1,) * order.rank, tuple(low))
    bias = [(features,)] * _check.flag("bias", layer.bias)
    return Step(
        Image(order.image(batch, features, geometry.spatial), field, order),
        math.prod(kernel) + features * len(bias),
        math.prod(batch) * math.prod(spatial) * math.prod(kernel),
        functools.partial(conv_transpose, layout=order.name, output_padding=extra, **options),
        (kernel, *bias),
    )


def _kernel(layer: Conv | ConvTranspose, order: Layout) -> tuple[int, Shape, dict[str, Any]]:
    """Features, window, and what else fixes a convolution, in normal form."""
    window, options = _steps(layer, order)
    options["groups"] = _check.integer("groups", layer.groups, 1)
    return _check.integer("features", layer.features, 0), window, options


def _steps(layer: Any, order: Layout) -> tuple[Shape, dict[str, Any]]:
    """The window, and how it moves."""
    window = _check.sizes("window", layer.window, 1)
    stride = window if layer.stride is None else layer.stride
    return window, {
        "stride": _check.per_axis("stride", stride, order.rank, 1),
        "padding": _check.padding("padding", layer.padding, order.rank),
        "dilation": _check.per_axis("dilation", layer.dilation, order.rank, 1),
    }


def _check_groups(groups: int, channels: int, features: int) -> None:
    if channels % groups or features % groups:
        raise ValueError(
            f"groups must divide the {channels} channels that come and the {features} features; "
            f"got {groups}"
        )


def _seen(field: ReceptiveField | None, geometry: Geometry) -> ReceptiveField | None:
    if field is None:
        return None
    lows = tuple(low for low, _ in geometry.padding)
    return through(field, geometry.extent, geometry.stride, lows)


def _pooling(call: Callable[..., Any], layer: MaxPool | AvgPool, image: Image) -> Step:
    order, batch, channels, spatial = image.parts()
    window, options = _steps(layer, order)
    options["ceil_mode"] = _check.flag("ceil_mode", layer.ceil_mode)
    geometry, _ = pool_geometry(spatial, window, **options)
    shape = order.image(batch, channels, geometry.output)
    result = Image(shape, _seen(image.field, geometry), order)
    pool = functools.partial(call, window=window, layout=order.name, **options)
    return Step(result, call=pool)


def _windowed(layer: Window, image: Image) -> Step:
    order, batch, channels, spatial = image.parts()
    window, options = _steps(layer, order)
    geometry = conv_geometry(spatial, window, source="its input", **options)
    shape = order.image(batch, channels, geometry.output)
    return Step(Image(shape, _seen(image.field, geometry), order))


def _adaptive(layer: AdaptiveAvgPool, image: Image) -> Step:
    order, batch, channels, spatial = image.parts()
    asked = _check.sequence("output_shape", layer.output_shape, "a sequence of ints or None")
    output = tuple(
        n if m is None else _check.integer(f"output_shape[{axis}]", m, 0)
        for axis, (n, m) in enumerate(zip(spatial, asked, strict=True))
    )
    if 0 in spatial:
        raise ValueError(f"at least one element is needed on every axis; got {image.shape}")
    field = None
    if all(m and n % m == 0 for n, m in zip(spatial, output, strict=True)):
        window = tuple(n // m for n, m in zip(spatial, output, strict=True))
        ones = (1,) * order.rank
        field = _seen(image.field, Geometry(spatial, window, window, ((0, 0),) * order.rank, ones))
    pool = functools.partial(adaptive_avg_pool, output_shape=output, layout=order.name)
    return Step(Image(order.image(batch, channels, output), field, order), call=pool)


def _normed(layer: BatchNorm, image: Image) -> Step:
    order = image.layout
    channels = image.shape[-1] if order is None else order.channels(image.shape)
    return Step(image, 2 * channels)


def _flattened(layer: Flatten, image: Image) -> Step:
    if image.layout is None:
        return Step(image)
    batch = image.layout.batch(image.shape)
    shape = (*batch, math.prod(image.shape[len(batch) :]))
    return Step(Image(shape, None, None))


def _dense(layer: Dense, image: Image) -> Step:
    if image.layout is not None:
        raise ValueError(f"Flatten() is needed before Dense; got an image of shape {image.shape}")
    features = _check.integer("features", layer.features, 0)
    *rows, summed = image.shape
    bias = features * _check.flag("bias", layer.bias)
    shape = (*rows, features)
    return Step(image._replace(shape=shape), summed * features + bias, math.prod(shape) * summed)


#: What each layer does with an image.
LAYERS: dict[type, Callable[[Any, Image], Step]] = {
    Conv: _convolution,
    ConvTranspose: _transposed,
    MaxPool: functools.partial(_pooling, max_pool),
    AvgPool: functools.partial(_pooling, avg_pool),
    AdaptiveAvgPool: _adaptive,
    BatchNorm: _normed,
    Flatten: _flattened,
    Dense: _dense,
    Window: _windowed,
}
