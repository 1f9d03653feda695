"""What the modules for Flax's two interfaces share: jaxconv's maps where Flax calls lax.

Nothing of Flax is written again here. Its code runs; where it says `lax.conv_general_dilated`,
`lax.conv_transpose` or `lax.reduce_window`, the operation is seen as one of the core's maps while
it is traced (`_views`), so that derivatives are the core's too, on every platform.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import pooling
from jax import Array, lax
from jax.extend.core import Literal

from . import _check, _pad
from ._geometry import resolve_padding
from ._layout import Layout
from ._views import VIEWS

#: The names of paddings that lax knows, in any case.
LAX_NAMES = ("SAME", "VALID", "SAME_LOWER")


def by_jaxconv(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which takes arrays in its place, its convolutions and windows jaxconv's."""

    @functools.wraps(function)
    def seen(*arrays: Any, **options: Any) -> Any:
        call = functools.partial(function, **options)
        jaxpr, shape = jax.make_jaxpr(call, return_shape=True)(*arrays)
        values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
        values.update(zip(jaxpr.jaxpr.invars, jax.tree.leaves(arrays), strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.jaxpr.eqns:
            results = _computed(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        results = [read(atom) for atom in jaxpr.jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return seen


def _computed(equation: Any, operands: list[Any]) -> Any:
    """The results of an equation, by one of the core's maps where there is one.

    Explicit shardings are lax's to handle.
    """
    primitive, params = equation.primitive, equation.params
    types_in = [atom.aval for atom in equation.invars]
    sharded = any(any(aval.sharding.spec) for aval in types_in if hasattr(aval, "sharding"))
    if primitive in VIEWS and not sharded:
        types_out = [variable.aval for variable in equation.outvars]
        program = VIEWS[primitive](*types_in, *types_out, params)
        if program is not None:
            return [program(*map(jnp.asarray, operands))]
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


def in_place_of_lax(method: Callable[..., Any], **functions: Any) -> Callable[..., Any]:
    """A method of Flax's, with these functions where its module says `lax`.

    The one way to give a method that calls `lax.conv_transpose` by name another one, short of
    writing it again, or of changing Flax for everybody.
    """
    given = types.SimpleNamespace(**{**vars(lax), **functions})
    changed = types.FunctionType(
        method.__code__,
        {**method.__globals__, "lax": given},
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    changed.__kwdefaults__ = method.__kwdefaults__
    return functools.wraps(method)(changed)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    padding_mode: str = "zeros",
    **options: Any,
) -> Array:
    """`lax.conv_general_dilated` by jaxconv, what Flax's `Conv` takes as its argument of that name.

    Raises:
        ValueError: for an unknown padding, a padding mode that needs more than there is to repeat,
            or one with a dilated input, between whose elements are zeros.
    """
    _check_name(padding, (*LAX_NAMES, "CIRCULAR", "REFLECT", "CAUSAL (for one spatial axis)"))
    if padding_mode != "zeros":
        if any(step != 1 for step in options.get("lhs_dilation") or ()):
            raise ValueError(
                f"padding_mode must be 'zeros' where input_dilation is not 1; got {padding_mode!r}"
            )
        lhs = _padded(lhs, rhs, window_strides, padding, padding_mode, options)
        padding = "VALID"
    return _convolve(lhs, rhs, window_strides=window_strides, padding=padding, **options)


_convolve = by_jaxconv(lax.conv_general_dilated)
_transpose = by_jaxconv(lax.conv_transpose)


def _padded(
    lhs: Array, rhs: Array, strides: Any, padding: Any, mode: str, options: Mapping[str, Any]
) -> Array:
    layout, window = Layout(rhs.ndim - 2, True), rhs.shape[:-2]
    spatial, dilation = layout.spatial(lhs.shape), tuple(options["rhs_dilation"])
    named = padding.lower() if isinstance(padding, str) else tuple(map(tuple, padding))
    pairs = resolve_padding(named, spatial, window, tuple(strides), dilation)
    _pad.check(mode, spatial, pairs)
    return _pad.pad(lhs, layout, pairs, mode)


def _check_name(padding: Any, names: Sequence[str]) -> None:
    """Of the names, lax's alone come here: Flax's convolutions have dealt with their own."""
    if isinstance(padding, str) and padding.upper() not in LAX_NAMES:
        raise ValueError(
            f"padding must be an int, one int or (low, high) pair per spatial axis, or one of "
            f"{', '.join(names)}; got {_check.show(padding)}"
        )


def conv_transpose(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: Any,
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """`lax.conv_transpose` by jaxconv, also in groups, of which lax has none there.

    A kernel is `(*window, c_i // groups, c_o)`, or, as that of the `Conv` it is the transpose of,
    `(*window, c_o // groups, c_i)` with `transpose_kernel`.
    """
    _check_name(padding, (*LAX_NAMES, "CIRCULAR"))
    options |= {"strides": strides, "padding": padding}
    if feature_group_count == 1:
        return _transpose(lhs, rhs, **options)
    if options.pop("transpose_kernel", False):
        rhs = exchanged(rhs, feature_group_count)
    group = (*lhs.shape[:-1], lhs.shape[-1] // feature_group_count), (*rhs.shape[:-1], 1)
    operands = (jax.ShapeDtypeStruct(shape, lhs.dtype) for shape in group)
    of_one = jax.make_jaxpr(functools.partial(lax.conv_transpose, **options))(*operands)
    params = next(e.params for e in of_one.eqns if e.primitive is lax.conv_general_dilated_p)
    return _convolve(lhs, rhs, **{**params, "feature_group_count": feature_group_count})


def exchanged(kernel: Any, groups: int) -> Any:
    """A kernel `(*window, a, groups * b)` turned around, as `(*window, b, groups * a)`."""
    *window, a, channels = kernel.shape
    turned = jnp.flip(kernel, range(len(window))).reshape(*window, a, groups, channels // groups)
    return jnp.swapaxes(turned, -1, -3).reshape(*window, channels // groups, groups * a)


def layout(name: str | None, kernel_size: Sequence[int]) -> Layout:
    """A module's layout of images: None is Flax's, channels last."""
    if name is None:
        return Layout(len(kernel_size), True)
    return Layout.parse(name, len(kernel_size), "kernel_size", tuple(kernel_size))


def in_layout(
    layout: Layout, call: Callable[[Array], Array], inputs: Array, features: int
) -> Array:
    """`call`, which takes and gives channels last, of images in this layout with these features."""
    layout.check_image("inputs", inputs.shape)
    if layout.channels(inputs.shape) != features:
        raise ValueError(
            f"inputs must be {layout.image_form} with in_features = {features} channels; got shape "
            f"{inputs.shape}"
        )
    if layout.channels_last:
        return call(inputs)
    axis = -layout.rank - 1
    return jnp.moveaxis(call(jnp.moveaxis(inputs, axis, -1)), -1, axis)


def check_mode(padding: Any, mode: str) -> None:
    """A padding that says itself what is added leaves nothing to a mode."""
    if mode != "zeros" and padding in ("CIRCULAR", "REFLECT", "CAUSAL"):
        raise ValueError(
            f"padding_mode must be 'zeros' where padding is {padding!r}, which says what is added; "
            f"got {mode!r}"
        )


def check_groups(groups: int, c_i: int, c_o: int, *, inputs: Array | None = None) -> None:
    """The groups divide both channels: those the module is made for, or those of these inputs."""
    _check.integer("feature_group_count", groups, 1)
    if c_i % groups or c_o % groups:
        needed = f"in_features = {c_i} and out_features = {c_o}"
        if inputs is not None:
            form = f"inputs (*batch, *spatial, c) = {inputs.shape}"
            needed = f"the {c_i} channels of {form} and features = {c_o}"
        raise ValueError(f"feature_group_count must divide {needed}; got {groups}")


def check_inputs(inputs: Array, kernel_size: Any, features: int, groups: int) -> None:
    """Inputs that a module of these features can read, in groups."""
    rank = len(kernel_size) if _check.is_many(kernel_size) else 1
    Layout(rank, True).check_image("inputs", inputs.shape)
    check_groups(groups, inputs.shape[-1], features, inputs=inputs)


@dataclasses.dataclass(frozen=True)
class Convolve:
    """`conv_general_dilated` in one padding mode. Equal ones are equal, as functions are not that
    are made anew: modules that hold them are compared, hashed and copied."""

    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        _check.choice("padding_mode", self.padding_mode, tuple(_pad.MODES))

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return conv_general_dilated(*args, padding_mode=self.padding_mode, **kwargs)


@dataclasses.dataclass(frozen=True)
class GroupedInit:
    """An initializer of Flax's that leaves out, of a kernel's shape, what other groups read.

    Attributes:
        init: the initializer.
        groups: the number of groups.
    """

    init: Callable[..., Any]
    groups: int

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any) -> Any:
        """The kernel `(*window, c // groups, d)` for one group's shape `(*window, c, d)`."""
        return self.init(key, self.shape(shape), dtype)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the grouped kernel."""
        *window, summed, channels = shape
        return (*window, summed // self.groups, channels)


@functools.cache
def convolving_call(method: Callable[..., Any], padding_mode: str) -> Callable[..., Any]:
    """The `__call__` of Flax's `Conv`, by jaxconv and in any padding mode."""
    return in_place_of_lax(inspect.unwrap(method), conv_general_dilated=Convolve(padding_mode))


@functools.cache
def transposed_call(method: Callable[..., Any], groups: int) -> Callable[..., Any]:
    """The `__call__` of Flax's `ConvTranspose`, by jaxconv and in groups."""
    ours = functools.partial(conv_transpose, feature_group_count=groups)
    return in_place_of_lax(inspect.unwrap(method), conv_transpose=ours)


def from_torch(weight: np.ndarray, turned: bool, groups: int) -> np.ndarray:
    """A kernel of torch's, `(a, b, *window)`, as Flax's `(*window, b, a)`; with `turned`, that of a
    transposed convolution as the one Flax takes where `transpose_kernel` is not set."""
    kernel = np.moveaxis(np.asarray(weight), (0, 1), (-1, -2))
    return np.asarray(exchanged(kernel, groups)) if turned else kernel


def windows(window_shape: Any, strides: Any, padding: Any) -> tuple[Any, Any, Any]:
    """A pooling module's arguments as Flax's functions take them, an int for all axes' strides.

    Raises:
        TypeError, ValueError: for what these do not take.
    """
    window = _check.sequence(
        "window_shape", window_shape, "a sequence of ints, one per spatial axis"
    )
    window = tuple(_check.integer(f"window_shape[{a}]", k, 1) for a, k in enumerate(window))
    if strides is None or (_check.is_many(strides) and not len(strides)):
        strides = None  # as in Flax, where no strides at all are ones too
    else:
        strides = _check.per_axis("strides", strides, len(window), 1)
    return window, strides, _windows_padding(padding, len(window))


def _windows_padding(padding: Any, rank: int) -> Any:
    needed = f"{rank} (low, high) pair(s), one per spatial axis, or one of {', '.join(LAX_NAMES)}"
    if isinstance(padding, str):
        if padding.upper() in LAX_NAMES:
            return padding
    else:
        pairs = _check.sequence("padding", padding, needed)
        if len(pairs) == rank:
            return tuple(_check.pair(f"padding[{axis}]", pair) for axis, pair in enumerate(pairs))
    raise ValueError(f"padding must be {needed}; got {_check.show(padding)}")


def _pool(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function of Flax's by jaxconv, of inputs and `windows`."""
    computed = by_jaxconv(function)

    @functools.wraps(function)
    def pooled(
        inputs: Array, window_shape: Any, strides: Any, padding: Any, **options: Any
    ) -> Array:
        rank = len(window_shape)
        Layout(rank, True).check_image("inputs", inputs.shape)
        if not isinstance(padding, str) and inputs.ndim > rank + 2:
            raise ValueError(
                f"padding must be one of {', '.join(LAX_NAMES)} where inputs have several batch "
                f"axes, of which Flax pads one at most; got {padding} for inputs {inputs.shape}"
            )
        options |= {"window_shape": window_shape, "strides": strides, "padding": padding}
        return computed(inputs, **options)

    return pooled


max_pool = _pool(pooling.max_pool)
avg_pool = _pool(pooling.avg_pool)
