"""`summary`: what each layer of a network gives, holds, costs, sees, and is computed by.

Layers are descriptions (`_layers`), small tuples of options; from them and the input's shape all
else follows in integers, but for the algorithms, which the table chooses for the call that a layer
is. `Row` and `Summary` serve modules, too, which `_traced_summary` reads.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax

from . import _arrays, _check
from ._adaptive import adaptive_avg_pool
from ._conv import conv, conv_transpose
from ._explain import checked_platform, chosen, core_equation
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
    Residual,
)
from ._layout import LAYOUTS, Layout
from ._pool import avg_pool, max_pool
from ._sizes import ReceptiveField, apart, element, through, union

Shape = tuple[int, ...]


class _Window(NamedTuple):
    """What a plain tuple is: a window over every channel, whatever is done with what it holds."""

    window: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1


# What is said about them.


class Row(NamedTuple):
    """What `summary` says about a layer.

    Attributes:
        name: where it is, and what it is.
        output_shape: what it gives; None for parameters of a module that is not called.
        parameters: entries of its kernel, bias, scale and so on.
        multiply_adds: as in `conv_cost`: padding counted as data, biases not, the batch counted. A
            transposed convolution multiplies each element with each tap.
        receptive_field: the part of the network's input that an output sees. None where windows
            of one size that move by whole elements do not describe it: all of it, for one.
        algorithms: what `algorithm="auto"` takes: for a convolution three names, for its output,
            input gradient and kernel gradient; for a pooling one; for all else none. `"lax"`
            stands for operations that jaxconv does not compute.
    """

    name: str
    output_shape: Shape | None
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None
    algorithms: tuple[str, ...]


class Summary(NamedTuple):
    """What `summary` says about a network. `str` of it is a readable table.

    Attributes:
        rows: what it says about each layer, in the order in which they are computed.
        parameters: all of them, shared ones counted once.
        multiply_adds: all of them.
        receptive_field: that of the network's output.
    """

    rows: tuple[Row, ...]
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None

    @classmethod
    def of(cls, rows: Sequence[Row], field: ReceptiveField | None) -> "Summary":
        """The summary of these rows and the field of the network's output."""
        parameters = sum(row.parameters for row in rows)
        return cls(tuple(rows), parameters, sum(row.multiply_adds for row in rows), field)

    def __str__(self) -> str:
        lines = [HEADINGS, *map(_cells, self.rows)]
        lines.append(("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", "", ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column in NUMBERS else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__


HEADINGS = ("layer", "output", "parameters", "multiply-adds", "sees", "algorithm")
#: Columns that are aligned at their end.
NUMBERS = (2, 3)


def _cells(row: Row) -> tuple[str, ...]:
    field = row.receptive_field
    alike = len(set(row.algorithms)) == 1
    return (
        row.name,
        "" if row.output_shape is None else str(row.output_shape),
        f"{row.parameters:,}" if row.parameters else "",
        f"{row.multiply_adds:,}" if row.multiply_adds else "",
        "-" if field is None else "x".join(map(str, field.size)),
        " / ".join(row.algorithms[:1] if alike else row.algorithms),
    )


# From layer to layer.


class _Image(NamedTuple):
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


class _Step(NamedTuple):
    """What a layer does.

    Attributes:
        image: what it gives.
        parameters, multiply_adds: as in `Row`.
        call: the function of jaxconv's that computes it, without its arrays.
        operands: the shapes of the arrays that `call` takes beside the image.
    """

    image: _Image
    parameters: int = 0
    multiply_adds: int = 0
    call: Callable[..., Any] | None = None
    operands: tuple[Shape, ...] = ()


def summary(
    layers: Sequence[Any],
    input_shape: Sequence[SupportsIndex],
    *,
    layout: str | None = None,
    dtype: Any = "float32",
    platform: str | None = None,
) -> Summary:
    """What each layer of a network gives, holds, costs, sees, and is computed by.

    Args:
        layers: a sequence of `Conv`, `ConvTranspose`, `MaxPool`, `AvgPool`, `AdaptiveAvgPool`,
            `BatchNorm`, `Flatten`, `Dense` and `Residual`, or `(window, stride, padding,
            dilation)` as `receptive_field` takes it: a window over every channel, whatever is done
            with it. Activations and the like, which change none of what is said, are left out.
        input_shape: `(*batch, c, *spatial)`, or `(*batch, *spatial, c)` channels last. The windows
            set the number of spatial axes, without any `layout` does, or there are none.
        layout: as in `jaxconv.conv`.
        dtype: of everything.
        platform: as in `jaxconv.explain`.

    Returns:
        A `Summary`: a row for each layer, named by where it is in `layers`, and the totals. Nothing
        is computed and no array is made.

    Raises:
        ValueError: layers that do not fit what comes to them, windows of different rank, a bad
            value. The message names the layer.
        TypeError: what is no layer, or something that is no int.

    Source: notes, sections 4 and 6.

    >>> lenet = [
    ...     Conv(6, (5, 5), padding=2), AvgPool((2, 2)), Conv(16, (5, 5)), AvgPool((2, 2)),
    ...     Flatten(), Dense(120), Dense(84), Dense(10),
    ... ]  # fmt: skip
    >>> print(summary(lenet, (1, 1, 28, 28), platform="cuda"))
    layer       output           parameters  multiply-adds  sees   algorithm
    0 conv      (1, 6, 28, 28)          156        117,600  5x5    direct
    1 avg_pool  (1, 6, 14, 14)                              6x6    reduce_window
    2 conv      (1, 16, 10, 10)       2,416        240,000  14x14  direct
    3 avg_pool  (1, 16, 5, 5)                               16x16  reduce_window
    4 flatten   (1, 400)                                    -
    5 dense     (1, 120)             48,120         48,000  -
    6 dense     (1, 84)              10,164         10,080  -
    7 dense     (1, 10)                 850            840  -
    total                            61,706        416,520
    """
    kind = jax.dtypes.canonicalize_dtype(_arrays.dtype("dtype", dtype))
    where = checked_platform(platform)
    parsed = _parsed("layers", layers)
    if not parsed:
        raise ValueError("layers must be one or more; got none")
    order = _layout(parsed, layout)
    needed = "a sequence of ints, one per axis"
    sizes = _check.sequence("input_shape", input_shape, needed)
    shape = tuple(_check.integer(f"input_shape[{at}]", n, 0) for at, n in enumerate(sizes))
    if order is not None:
        order.check_image("input_shape", shape)
    elif not shape:
        raise ValueError(f"input_shape must have one axis at least; got {shape}")
    start = _Image(shape, None if order is None else element(order.rank), order)
    steps: list[tuple[str, str, _Image, _Step]] = []
    result = _through("layers", "", parsed, start, steps)
    rows = []
    for source, name, image, step in steps:
        with _naming(source):
            algorithms = _algorithms(image.shape, step, kind, where)
        made = step.image
        rows.append(
            Row(name, made.shape, step.parameters, step.multiply_adds, made.field, algorithms)
        )
    return Summary.of(rows, result.field)


def _parsed(source: str, layers: Any) -> tuple[Any, ...]:
    """The layers, plain tuples among them as `_Window`s."""
    if type(layers) in (*LAYERS, Residual):
        raise TypeError(f"{source} must be a sequence of layers; got {_check.show(layers)}")
    items = _check.sequence(source, layers, "a sequence of layers")
    return tuple(_parsed_one(f"{source}[{number}]", layer) for number, layer in enumerate(items))


def _parsed_one(source: str, layer: Any) -> Any:
    if isinstance(layer, Residual):
        branches = (_parsed(f"{source}.{name}", getattr(layer, name)) for name in layer._fields)
        return Residual(*branches)
    if type(layer) in LAYERS:
        return layer
    needed = (
        f"one of {', '.join(kind.__name__ for kind in (*LAYERS, Residual) if kind is not _Window)}"
        f", or (window, stride, padding, dilation), the last three optional"
    )
    fields = _check.sequence(source, layer, needed)
    if not 1 <= len(fields) <= 4:
        raise ValueError(f"{source} must be {needed}; got {_check.show(layer)}")
    return _Window(*fields)


def _layout(layers: Any, layout: Any) -> Layout | None:
    """The layout, of the rank that the windows have; None without windows and without a name."""
    windows = list(_windows("layers", layers))
    for name, window in windows:
        if len(window) != len(windows[0][1]):
            raise ValueError(
                f"{name} must have as many axes as {windows[0][0]} = {windows[0][1]}; got {window}"
            )
    if windows:
        name, window = windows[0]
        return Layout.parse(layout, len(window), name, window)
    if layout is not None:
        _check.choice("layout", layout, tuple(LAYOUTS))
        return Layout(*LAYOUTS[layout])
    if any(isinstance(layer, Flatten) for layer in layers):
        raise ValueError(
            "layout must be given where no layer has a window: it says how many axes of "
            "input_shape are spatial; got None"
        )
    return None


def _windows(source: str, layers: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Everything that has an entry for each spatial axis, and its name."""
    for number, layer in enumerate(layers):
        name = f"{source}[{number}]"
        if isinstance(layer, Residual):
            for branch in layer._fields:
                yield from _windows(f"{name}.{branch}", getattr(layer, branch))
        for field in ("window", "output_shape"):
            if field in layer._fields:
                sizes = _check.sequence(
                    f"{name} {field}",
                    getattr(layer, field),
                    "a sequence of 1 to 3 ints, one per spatial axis",
                )
                yield f"{name} {field}", sizes


def _through(
    source: str,
    prefix: str,
    layers: Any,
    image: _Image,
    steps: list[tuple[str, str, _Image, _Step]],
) -> _Image:
    """What the layers make of an image; each layer's step is put on the list."""
    for number, layer in enumerate(layers):
        name, label = f"{source}[{number}]", f"{prefix}{number}"
        if isinstance(layer, Residual):
            step = _residual(name, label, layer, image, steps)
        else:
            with _naming(name):
                step = LAYERS[type(layer)](layer, image)
        kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(layer).__name__)
        steps.append((name, f"{label} {kind.strip('_')}", image, step))
        image = step.image
    return image


@contextlib.contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Errors name the layer."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{layer}: {error}") from None


def _residual(source: str, label: str, layer: Residual, image: _Image, steps: list[Any]) -> _Step:
    body, shortcut = (
        _through(f"{source}.{name}", f"{label}.{name}.", getattr(layer, name), image, steps)
        for name in layer._fields
    )
    if body.shape != shortcut.shape:
        raise ValueError(
            f"{source} must have branches of the same shape, which are summed; got body with "
            f"{body.shape} and shortcut with {shortcut.shape}"
        )
    return _Step(body._replace(field=union(body.field, shortcut.field)))


def _convolution(layer: Conv, image: _Image) -> _Step:
    order, batch, channels, spatial = image.parts()
    features, window, options = _kernel(layer, order)
    groups = options["groups"]
    _check_groups(groups, channels, features)
    geometry = conv_geometry(spatial, window, source="its input", **options)
    kernel = order.kernel(features, channels // groups, window)
    result = _Image(
        order.image(batch, features, geometry.output), _seen(image.field, geometry), order
    )
    bias = [(features,)] * _check.flag("bias", layer.bias)
    return _Step(
        result,
        math.prod(kernel) + features * len(bias),
        math.prod(batch) * math.prod(geometry.output) * math.prod(kernel),
        functools.partial(conv, layout=_name(order), **options),
        (kernel, *bias),
    )


def _transposed(layer: ConvTranspose, image: _Image) -> _Step:
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
    return _Step(
        _Image(order.image(batch, features, geometry.spatial), field, order),
        math.prod(kernel) + features * len(bias),
        math.prod(batch) * math.prod(spatial) * math.prod(kernel),
        functools.partial(conv_transpose, layout=_name(order), output_padding=extra, **options),
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


def _pooling(call: Callable[..., Any], layer: MaxPool | AvgPool, image: _Image) -> _Step:
    order, batch, channels, spatial = image.parts()
    window, options = _steps(layer, order)
    options["ceil_mode"] = _check.flag("ceil_mode", layer.ceil_mode)
    geometry, _ = pool_geometry(spatial, window, **options)
    shape = order.image(batch, channels, geometry.output)
    result = _Image(shape, _seen(image.field, geometry), order)
    pool = functools.partial(call, window=window, layout=_name(order), **options)
    return _Step(result, call=pool)


def _windowed(layer: _Window, image: _Image) -> _Step:
    order, batch, channels, spatial = image.parts()
    window, options = _steps(layer, order)
    geometry = conv_geometry(spatial, window, source="its input", **options)
    shape = order.image(batch, channels, geometry.output)
    return _Step(_Image(shape, _seen(image.field, geometry), order))


def _adaptive(layer: AdaptiveAvgPool, image: _Image) -> _Step:
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
    pool = functools.partial(adaptive_avg_pool, output_shape=output, layout=_name(order))
    return _Step(_Image(order.image(batch, channels, output), field, order), call=pool)


def _normed(layer: BatchNorm, image: _Image) -> _Step:
    order = image.layout
    channels = image.shape[-1] if order is None else order.channels(image.shape)
    return _Step(image, 2 * channels)


def _flattened(layer: Flatten, image: _Image) -> _Step:
    if image.layout is None:
        return _Step(image)
    batch = image.layout.batch(image.shape)
    shape = (*batch, math.prod(image.shape[len(batch) :]))
    return _Step(_Image(shape, None, None))


def _dense(layer: Dense, image: _Image) -> _Step:
    if image.layout is not None:
        raise ValueError(f"Flatten() is needed before Dense; got an image of shape {image.shape}")
    features = _check.integer("features", layer.features, 0)
    *rows, summed = image.shape
    bias = features * _check.flag("bias", layer.bias)
    shape = (*rows, features)
    return _Step(image._replace(shape=shape), summed * features + bias, math.prod(shape) * summed)


#: What each layer does with an image.
LAYERS: dict[type, Callable[[Any, _Image], _Step]] = {
    Conv: _convolution,
    ConvTranspose: _transposed,
    MaxPool: functools.partial(_pooling, max_pool),
    AvgPool: functools.partial(_pooling, avg_pool),
    AdaptiveAvgPool: _adaptive,
    BatchNorm: _normed,
    Flatten: _flattened,
    Dense: _dense,
    _Window: _windowed,
}


def _name(order: Layout) -> str:
    """The layout as callers write it."""
    parts = order.rank, order.channels_last
    return next(name for name, found in LAYOUTS.items() if found == parts)


def _algorithms(shape: Shape, step: _Step, dtype: Any, platform: str) -> tuple[str, ...]:
    """What computes a step on an image of this shape: the call is traced, as `explain` does."""
    if step.call is None:
        return ()
    arrays = [jax.ShapeDtypeStruct(sizes, dtype) for sizes in (shape, *step.operands)]
    return chosen(core_equation(step.call, *arrays), platform)
