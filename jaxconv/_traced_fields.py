"""What the values of a traced program see of its inputs: receptive fields, axis by axis.

Along an axis of a value and an axis of an input, elements see windows of one size that move by one
step, or all of that axis. Each operation that keeps some of the former has a rule here; results of
all others see all. Modules and costs are in `_traced_summary`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ._explain import PREFIX
from ._geometry import Geometry, Ints
from ._sizes import ReceptiveField, apart, through, union
from ._summary import Shape

#: An axis of an input: the input's number, and the axis.
Source = tuple[int, int]
#: What elements along an axis of some value see of sources: fields with one axis.
Along = Mapping[Source, ReceptiveField]


class Seen(NamedTuple):
    """What a value's elements see.

    Attributes:
        inputs: the inputs that it depends on.
        axes: for each of its axes, what elements along it see. An axis of one of these inputs that
            is in none of them is seen as a whole.
    """

    inputs: frozenset[int]
    axes: tuple[Along, ...]


def nothing(rank: int) -> Seen:
    return Seen(frozenset(), ({},) * rank)


def inputs_of(values: Sequence[Seen]) -> frozenset[int]:
    """The inputs that any of the values depends on."""
    return frozenset[int]().union(*(value.inputs for value in values))


def _together(rank: int, values: Sequence[Seen]) -> Seen:
    """What elements see that are computed from elements at the same place."""
    axes = []
    for axis in range(rank):
        found: dict[Source, ReceptiveField] = {}
        for source in {source for value in values for source in value.axes[axis]}:
            fields = [v.axes[axis].get(source) for v in values if source[0] in v.inputs]
            field = functools.reduce(union, fields)
            if field is not None:
                found[source] = field
        axes.append(found)
    return Seen(inputs_of(values), tuple(axes))


def _placed(value: Seen, rank: int, places: Mapping[int, int]) -> Seen:
    """A value's axes put at other places; those without a place are seen as a whole."""
    axes: list[Along] = [{}] * rank
    for axis, place in places.items():
        axes[place] = value.axes[axis]
    return Seen(value.inputs, tuple(axes))


def _moved(along: Along, extent: int = 1, stride: int = 1, low: int = 0, gap: int = 1) -> Along:
    """What windows over an axis see, whose elements have been moved `gap` apart."""
    found = {}
    for source, field in along.items():
        if (spread := apart(field, (gap,))) is not None:
            found[source] = through(spread, (extent,), (stride,), (low,))
    return found


def shape_of(atom: Any) -> Shape:
    return atom.aval.shape


def _pointwise(equation: Any, values: Sequence[Seen]) -> Seen:
    """Axes of size 1 go with any other."""
    result = shape_of(equation.outvars[0])
    placed = []
    for atom, value in zip(equation.invars, values, strict=True):
        shape = shape_of(atom)
        places = {axis: axis for axis, size in enumerate(shape) if size == result[axis]}
        placed.append(_placed(value, len(result), places))
    return _together(len(result), placed)


def _broadcast(equation: Any, values: Sequence[Seen]) -> Seen:
    shape, result = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    places = enumerate(equation.params["broadcast_dimensions"])
    kept = {axis: place for axis, place in places if shape[axis] == result[place]}
    return _placed(values[0], len(result), kept)


def _transposed(equation: Any, values: Sequence[Seen]) -> Seen:
    order = equation.params["permutation"]
    return _placed(values[0], len(order), {axis: place for place, axis in enumerate(order)})


def _reshaped(equation: Any, values: Sequence[Seen]) -> Seen:
    shape, result = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    if equation.params.get("dimensions") is not None or 0 in shape:
        return _placed(values[0], len(result), {})
    return _placed(values[0], len(result), same_axes(shape, result))


def same_axes(shape: Shape, result: Shape) -> dict[int, int]:
    """The axes that a reshape leaves as they are, and their places afterwards."""
    places: dict[int, int] = {}
    i = j = 0
    while i < len(shape) and j < len(result):
        if shape[i] == result[j]:
            places[i] = j
        elif shape[i] == 1 or result[j] == 1:
            i, j = (i + 1, j) if shape[i] == 1 else (i, j + 1)
            continue
        else:
            size, other = shape[i], result[j]
            while size != other:
                if size < other:
                    i += 1
                    size *= shape[i]
                else:
                    j += 1
                    other *= result[j]
        i, j = i + 1, j + 1
    return places


def _sliced(equation: Any, values: Sequence[Seen]) -> Seen:
    starts = equation.params["start_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    axes = zip(values[0].axes, starts, strides, strict=True)
    return values[0]._replace(
        axes=tuple(_moved(along, stride=s, low=-start) for along, start, s in axes)
    )


def _padded(equation: Any, values: Sequence[Seen]) -> Seen:
    axes = zip(values[0].axes, equation.params["padding_config"], strict=True)
    moved = (_moved(along, low=low, gap=between + 1) for along, (low, _, between) in axes)
    value = values[0]._replace(axes=tuple(moved))
    return _together(len(value.axes), [value, _placed(values[1], len(value.axes), {})])


def _joined(equation: Any, values: Sequence[Seen]) -> Seen:
    """What is more than half of an axis is the image; what is put beside it is its padding."""
    axis, size = equation.params["dimension"], shape_of(equation.outvars[0])
    along, offset = {}, 0
    for atom, value in zip(equation.invars, values, strict=True):
        if 2 * shape_of(atom)[axis] > size[axis]:
            along = _moved(value.axes[axis], low=offset)
        offset += shape_of(atom)[axis]
    others = {place: place for place in range(len(size)) if place != axis}
    beside = _together(len(size), [_placed(value, len(size), others) for value in values])
    return beside._replace(axes=(*beside.axes[:axis], along, *beside.axes[axis + 1 :]))


def _without(equation: Any, values: Sequence[Seen], gone: Any) -> Seen:
    """Axes that are no more."""
    axes = tuple(along for axis, along in enumerate(values[0].axes) if axis not in gone)
    return values[0]._replace(axes=axes)


def _mixed(equation: Any, values: Sequence[Seen], mixed: Any) -> Seen:
    """Axes each of whose elements sees all of them; the others stay."""
    axes = tuple({} if axis in mixed else along for axis, along in enumerate(values[0].axes))
    return values[0]._replace(axes=axes)


def _cut(equation: Any, values: Sequence[Seen]) -> Seen:
    """A slice from somewhere; axes of which it takes all stay."""
    sizes = zip(shape_of(equation.invars[0]), shape_of(equation.outvars[0]), strict=True)
    return _mixed(equation, values, [axis for axis, (n, m) in enumerate(sizes) if n != m])


def _multiplied(equation: Any, values: Sequence[Seen]) -> Seen:
    """A matrix product: the axes in common, then the rest of the first and of the second."""
    rank = len(shape_of(equation.outvars[0]))
    summed, common = equation.params["dimension_numbers"]
    placed, place = [], len(common[0])
    for value, gone, first in zip(values, summed, common, strict=True):
        places = {axis: at for at, axis in enumerate(first)}
        for axis in range(len(value.axes)):
            if axis not in gone and axis not in first:
                places[axis], place = place, place + 1
        placed.append(_placed(value, rank, places))
    return _together(rank, placed)


# Windows.


class Windows(NamedTuple):
    """Windows over axes of an operation's first operand.

    Attributes:
        batch: axes of the first operand with no windows, and their places in the result.
        axes: the axes that windows move along.
        places: the places of their results.
        extent, stride, low, gap: as in `_moved`, an entry for each.
    """

    batch: Mapping[int, int]
    axes: Sequence[int]
    places: Sequence[int]
    extent: Ints
    stride: Ints
    low: Ints
    gap: Ints


def _over(windows: Windows, rank: int, values: Sequence[Seen]) -> Seen:
    """What windows see; a second operand, a kernel, is seen by all."""
    first = _placed(values[0], rank, windows.batch)
    axes = list(first.axes)
    steps = zip(windows.extent, windows.stride, windows.low, windows.gap, strict=True)
    for axis, place, step in zip(windows.axes, windows.places, steps, strict=True):
        axes[place] = _moved(values[0].axes[axis], *step)
    others = [_placed(value, rank, {}) for value in values[1:]]
    return _together(rank, [Seen(first.inputs, tuple(axes)), *others])


def windows_of(equation: Any) -> Windows | None:
    """The windows of an operation; None where it has none that are of one size."""
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _lax_convolution(equation)
    if name.startswith("reduce_window"):
        return _lax_windows(params)
    name, form = name.removeprefix(PREFIX), params.get("form")
    if form is None or not isinstance(form.geometry, Geometry):
        return None
    if name in ("window_max", "window_sum", "window_argmax"):
        geometry = form.geometry
        axes = range(1, geometry.rank + 1)
        ends = {0: 0, geometry.rank + 1: geometry.rank + 1}
        low = tuple(low for low, _ in geometry.padding)
        ones = (1,) * geometry.rank
        return Windows(ends, axes, axes, geometry.extent, geometry.stride, low, ones)
    return _projection(name, form) if name in ("output", "input_grad") else None


def _projection(name: str, form: Any) -> Windows:
    geometry, first = form.geometry, form.layout.first_spatial(form.layout.rank + 2)
    axes, ones = range(first, first + geometry.rank), (1,) * geometry.rank
    low = tuple(low for low, _ in geometry.padding)
    if name == "output":
        return Windows({0: 0}, axes, axes, geometry.extent, geometry.stride, low, ones)
    # Backwards, windows are turned around and step by step over elements that lie apart.
    low = tuple(e - 1 - before for e, before in zip(geometry.extent, low, strict=True))
    return Windows({0: 0}, axes, axes, geometry.extent, ones, low, geometry.stride)


def _lax_convolution(equation: Any) -> Windows:
    params, kernel = equation.params, shape_of(equation.invars[1])
    x, w, y = params["dimension_numbers"]
    taps = (kernel[axis] for axis in w[2:])
    extent = tuple(d * (k - 1) + 1 for k, d in zip(taps, params["rhs_dilation"], strict=True))
    batch = {x[0]: y[0]} if params["batch_group_count"] == 1 else {}
    low = tuple(low for low, _ in params["padding"])
    steps = tuple(params["window_strides"]), low, tuple(params["lhs_dilation"])
    return Windows(batch, x[2:], y[2:], extent, *steps)


def _lax_windows(params: Mapping[str, Any]) -> Windows:
    sizes = params["window_dimensions"]
    spread, gap = params["window_dilation"], params["base_dilation"]
    extent = [d * (k - 1) + 1 for k, d in zip(sizes, spread, strict=True)]
    stride, low = params["window_strides"], [low for low, _ in params["padding"]]
    moving = [
        axis
        for axis, step in enumerate(zip(extent, stride, low, gap, strict=True))
        if step != (1, 1, 0, 1)
    ]
    still = {axis: axis for axis in range(len(sizes)) if axis not in moving}
    steps = (tuple(of[axis] for axis in moving) for of in (extent, stride, low, gap))
    return Windows(still, moving, moving, *steps)


# Operations by name: what their results see.

POINTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp clz complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt
    lt_to max min mul name ne neg nextafter not or polygamma population_count pow real
    reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical
    sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""
REDUCTIONS = """
    argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor
"""
_MIXING = {
    **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "split"), "axis"),
    "rev": "dimensions",
    "sort": "dimension",
}


def _by_parameter(rule: Callable[..., Seen], parameter: str) -> Callable[..., Seen]:
    """A rule for the axes, or the one axis, that a parameter says."""

    def applied(equation: Any, values: Sequence[Seen]) -> Seen:
        axes = equation.params[parameter]
        return rule(equation, values, (axes,) if isinstance(axes, int) else axes)

    return applied


#: `(equation, what its operands see) -> what each of its results sees`.
RULES: dict[str, Callable[[Any, Sequence[Seen]], Seen]] = {
    **dict.fromkeys(POINTWISE.split(), _pointwise),
    **{name: _by_parameter(_without, "axes") for name in REDUCTIONS.split()},
    **{name: _by_parameter(_mixed, parameter) for name, parameter in _MIXING.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _joined,
    "dot_general": _multiplied,
    "dynamic_slice": _cut,
    "pad": _padded,
    "reshape": _reshaped,
    "slice": _sliced,
    "squeeze": _by_parameter(_without, "dimensions"),
    "transpose": _transposed,
}


def seen(equation: Any, values: Sequence[Seen], averaging: bool) -> list[Seen]:
    """What the results of an equation see, given what its operands see.

    With `averaging`, sums and the like along axes are constants: statistics.
    """
    name, ranks = equation.primitive.name, [len(shape_of(v)) for v in equation.outvars]
    if averaging and name in REDUCTIONS.split():
        return [nothing(rank) for rank in ranks]
    if (windows := windows_of(equation)) is not None:
        return [_over(windows, rank, values) for rank in ranks]
    if name in RULES:
        return [RULES[name](equation, values)] * len(ranks)
    return [Seen(inputs_of(values), ({},) * rank) for rank in ranks]
