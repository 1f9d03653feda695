"""`geometry.summary`: from descriptions of layers and the input's shape to rows.

Layers are checked and gone through in order, branches within them; what each makes of what comes
to it is `_layer_steps`'s.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import jax

from . import _arrays, _check
from ._explain import checked_platform, chosen, core_equation
from ._layer_steps import LAYERS, Image, Step, Window
from ._layers import Flatten, Residual
from ._layout import LAYOUTS, Layout
from ._sizes import element, union
from ._summary import Row, Shape, Summary


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

    >>> from jaxconv.geometry import AvgPool, Conv, Dense, Flatten
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
    start = Image(shape, None if order is None else element(order.rank), order)
    steps: list[tuple[str, str, Image, Step]] = []
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
    """The layers, plain tuples among them as `Window`s."""
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
        f"one of {', '.join(kind.__name__ for kind in (*LAYERS, Residual) if kind is not Window)}"
        f", or (window, stride, padding, dilation), the last three optional"
    )
    fields = _check.sequence(source, layer, needed)
    if not 1 <= len(fields) <= 4:
        raise ValueError(f"{source} must be {needed}; got {_check.show(layer)}")
    return Window(*fields)


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
    image: Image,
    steps: list[tuple[str, str, Image, Step]],
) -> Image:
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


def _residual(source: str, label: str, layer: Residual, image: Image, steps: list[Any]) -> Step:
    body, shortcut = (
        _through(f"{source}.{name}", f"{label}.{name}.", getattr(layer, name), image, steps)
        for name in layer._fields
    )
    if body.shape != shortcut.shape:
        raise ValueError(
            f"{source} must have branches of the same shape, which are summed; got body with "
            f"{body.shape} and shortcut with {shortcut.shape}"
        )
    return Step(body._replace(field=union(body.field, shortcut.field)))


def _algorithms(shape: Shape, step: Step, dtype: Any, platform: str) -> tuple[str, ...]:
    """What computes a step on an image of this shape: the call is traced, as `explain` does."""
    if step.call is None:
        return ()
    arrays = [jax.ShapeDtypeStruct(sizes, dtype) for sizes in (shape, *step.operands)]
    return chosen(core_equation(step.call, *arrays), platform)
