"""`Conv`, `ConvTranspose`, `MaxPool`, `AvgPool` for Flax's nnx interface, computed by jaxconv.

Flax's own modules: the same arguments, parameters, initial values and results, so that changing the
import is the whole migration and a checkpoint moves over untouched. `summary` says of any module
what its layers give, hold, cost, see, and are computed by. Beyond Flax's arguments there
is `padding_mode` for `Conv` (Flax has no replicated edges), `feature_group_count` for
`ConvTranspose` and `layout` for both; `load_torch` takes weights over. Needs Flax.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from . import _check, _flax, _traced_summary
from ._summary import Summary

#: Looked up once: people put these classes in the place of Flax's own.
_FLAXS_CALL = nnx.ConvTranspose.__call__


class Conv(nnx.Conv):
    """`flax.nnx.Conv` by jaxconv: the same but for speed, `padding_mode` and `load_torch`.

    Args:
        in_features, out_features, args, kwargs: those of `flax.nnx.Conv`.
        padding_mode: what is added where `padding` says so: `"zeros"`, `"reflect"`, `"replicate"`
            or `"circular"`.
        layout: of images, as in `jaxconv.conv`: `"NCHW"` and the like for channels first; None is
            Flax's, channels last. The kernel is Flax's in any case.

    >>> conv = Conv(3, 8, (3, 3), padding_mode="replicate", rngs=nnx.Rngs(0))
    >>> conv(jnp.ones((1, 28, 28, 3))).shape
    (1, 28, 28, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *args: Any,
        padding_mode: str = "zeros",
        layout: str | None = None,
        **kwargs: Any,
    ):
        _flax.check_groups(kwargs.get("feature_group_count", 1), in_features, out_features)
        options = {"conv_general_dilated": _flax.Convolve(padding_mode), **kwargs}
        super().__init__(in_features, out_features, *args, **options)
        _flax.check_mode(self.padding, padding_mode)
        self.layout = _flax.layout(layout, self.kernel_size)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """As in Flax, in the module's layout."""
        options = {} if out_sharding is None else {"out_sharding": out_sharding}
        call = functools.partial(super().__call__, **options)
        return _flax.in_layout(self.layout, call, inputs, self.in_features)

    def load_torch(self, weight: np.ndarray, bias: np.ndarray | None = None) -> Self:
        """Take over a `torch.nn.Conv{1,2,3}d`: its `state_dict` entries as NumPy arrays.

        Args:
            weight: `(c_o, c_i // groups, *window)`.
            bias: `(c_o,)`; None where the module has none.

        Returns:
            The module itself, which computes what torch's computes: with `layout="NCHW"` on the
            same arrays, without on `(*batch, *spatial, c)`.

        Raises:
            ValueError: for other shapes than the module's, or a bias it does not have or lacks.
        """
        return _loaded(self, _flax.from_torch(weight, False, 1), bias)


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose` by jaxconv: the same but for speed, groups and `load_torch`.

    Args:
        in_features, out_features, args, kwargs: those of `flax.nnx.ConvTranspose`.
        feature_group_count: the number of groups. The kernel is `(*window, c_i // groups, c_o)`, or
            `(*window, c_o // groups, c_i)` with `transpose_kernel`.
        layout: as in `Conv`.

    >>> up = ConvTranspose(4, 6, (2, 2), strides=(2, 2), feature_group_count=2, rngs=nnx.Rngs(0))
    >>> up(jnp.ones((1, 7, 7, 4))).shape, up.kernel.shape
    ((1, 14, 14, 6), (2, 2, 2, 6))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *args: Any,
        feature_group_count: int = 1,
        layout: str | None = None,
        **kwargs: Any,
    ):
        _flax.check_groups(feature_group_count, in_features, out_features)
        init = kwargs.get("kernel_init", nnx.initializers.lecun_normal())
        grouped = _flax.GroupedInit(init, feature_group_count)
        if feature_group_count > 1:
            kwargs["kernel_init"] = grouped
        super().__init__(in_features, out_features, *args, **kwargs)
        self.kernel_shape = grouped.shape(self.kernel_shape)
        self.feature_group_count = feature_group_count
        self.layout = _flax.layout(layout, self.kernel_size)

    def __call__(self, inputs: Array) -> Array:
        """As in Flax, in the module's layout."""
        call = _flax.transposed_call(_FLAXS_CALL, self.feature_group_count)
        call = functools.partial(call, self)
        return _flax.in_layout(self.layout, call, inputs, self.in_features)

    def load_torch(self, weight: np.ndarray, bias: np.ndarray | None = None) -> Self:
        """Take over a `torch.nn.ConvTranspose{1,2,3}d`: its `state_dict` entries as NumPy arrays.

        torch's padding of p is Flax's of `dilation*(k-1) - p`, with torch's `output_padding` added
        to its high end.

        Args:
            weight: `(c_i, c_o // groups, *window)`.
            bias: `(c_o,)`; None where the module has none.

        Returns:
            The module itself, as in `Conv.load_torch`.

        Raises:
            ValueError: for other shapes than the module's, or a bias it does not have or lacks.
        """
        turned = not self.transpose_kernel
        return _loaded(self, _flax.from_torch(weight, turned, self.feature_group_count), bias)


class MaxPool(nnx.Module):
    """`flax.nnx.max_pool` by jaxconv, as a module.

    Args:
        window_shape: elements per axis.
        strides: elements from one window to the next, per axis or, beyond Flax's, an int for all;
            None is 1 for each axis.
        padding: `"SAME"`, `"VALID"`, or one `(low, high)` pair per axis.

    >>> MaxPool((2, 2), strides=(2, 2))(jnp.ones((1, 28, 28, 3))).shape
    (1, 14, 14, 3)
    """

    def __init__(
        self,
        window_shape: Sequence[int],
        strides: int | Sequence[int] | None = None,
        padding: str | Sequence[tuple[int, int]] = "VALID",
    ):
        windows = _flax.windows(window_shape, strides, padding)
        self.window_shape, self.strides, self.padding = windows

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.max_pool(inputs, self.window_shape, self.strides, self.padding)


class AvgPool(MaxPool):
    """`flax.nnx.avg_pool` by jaxconv, as a module.

    Args:
        window_shape, strides, padding: as in `MaxPool`.
        count_include_pad: whether padding counts.

    >>> AvgPool((2, 2), strides=(2, 2))(jnp.ones((1, 28, 28, 3))).shape
    (1, 14, 14, 3)
    """

    def __init__(
        self,
        window_shape: Sequence[int],
        strides: int | Sequence[int] | None = None,
        padding: str | Sequence[tuple[int, int]] = "VALID",
        count_include_pad: bool = True,
    ):
        super().__init__(window_shape, strides, padding)
        self.count_include_pad = count_include_pad

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.avg_pool(
            inputs,
            self.window_shape,
            self.strides,
            self.padding,
            count_include_pad=self.count_include_pad,
        )


def _loaded(module: Any, kernel: np.ndarray, bias: np.ndarray | None) -> Any:
    given = {"kernel": kernel, "bias": bias}
    for name, value in given.items():
        wanted = getattr(module, name)
        shapes = [None if array is None else array.shape for array in (value, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{'weight' if name == 'kernel' else name} must fit the module's {name} of shape "
                f"{shapes[1]}; got {shapes[0]} in Flax's order"
            )
    for name, value in given.items():
        if value is not None:
            parameter = getattr(module, name)
            parameter[...] = jnp.asarray(value, parameter.dtype)
    return module


# Summaries.


def summary(
    module: nnx.Module, *inputs: Any, platform: str | None = None, **kwargs: Any
) -> Summary:
    """What each layer of a module gives, holds, costs, sees, and is computed by.

    There is a row for each call of a module that does one operation (a convolution, a pooling, a
    matrix product) or has parameters, and for each operation beside them. The call is traced,
    not computed, on a copy: the module, its parameters, statistics and random numbers stay as they
    are. A module or a parameter that is used twice is counted once, its multiply-adds twice.

    Args:
        module: any of Flax's nnx modules, also one without arrays, from `nnx.eval_shape`.
        inputs: what it is called with: arrays, `jax.ShapeDtypeStruct`s, trees of these, or a tuple
            of ints, the shape of float32 numbers.
        platform: as in `jaxconv.explain`.
        kwargs: what else it is called with.

    Returns:
        A `jaxconv.geometry.Summary`. Rows are named by where modules are and their class.
        Receptive fields are of the spatial axes of the first input that windows move along:
        interior outputs', whatever the image is padded with; the means of batch norms do not count.
        Without `jaxconv.accelerate`, operations of lax's are computed by `"lax"`. What runs in a
        `scan` counts as often as it runs, in a `while` loop once, in a `shard_map` for one device,
        and of the branches of a `cond` that which costs most. While it is traced, a module is of a
        subclass of its class.

    Raises:
        TypeError: when `module` is no nnx module that can be called.
        ValueError: for an unknown platform; what the module raises for these inputs.

    >>> conv = Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
    >>> print(summary(nnx.Sequential(conv, nnx.relu), (1, 28, 28, 3), platform="cuda"))
    layer          output          parameters  multiply-adds  sees  algorithm
    layers.0 Conv  (1, 14, 14, 8)         224         42,336  3x3   direct
    total                                 224         42,336
    """
    if not isinstance(module, nnx.Module) or not callable(module):
        raise TypeError(f"module must be an nnx module to call; got {_check.describe(module)}")
    structs = [_struct(value) if _is_shape(value) else value for value in inputs]
    leaves, tree = jax.tree.flatten((structs, kwargs))
    arrays = [_struct(leaf) if _is_array(leaf) else None for leaf in leaves]
    graph, state = nnx.split(module)
    modules: dict[str, _traced_summary.Module] = {}

    def call(state: Any, given: list[Any]) -> list[Any]:
        copy: Any = nnx.merge(graph, state)
        modules.update(_marked(copy))
        rest = iter(given)
        values = [
            leaf if array is None else next(rest)
            for leaf, array in zip(leaves, arrays, strict=True)
        ]
        args, options = jax.tree.unflatten(tree, values)
        return [leaf for leaf in jax.tree.leaves(copy(*args, **options)) if _is_array(leaf)]

    given = [array for array in arrays if array is not None]
    return _traced_summary.summary_of_trace(call, state, given, modules, platform)


def _is_shape(value: Any) -> bool:
    if type(value) is not tuple or not value or any(type(size) is not int for size in value):
        return False
    if min(value) < 0:
        raise ValueError(f"inputs must have sizes of 0 or more; got {value}")
    return True


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _struct(value: Any) -> jax.ShapeDtypeStruct:
    if _is_shape(value):
        return jax.ShapeDtypeStruct(value, jnp.float32)
    dtype = value.dtype
    if not jnp.issubdtype(dtype, jax.dtypes.extended):  # those of random keys stay
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(value.shape, dtype)


def _marked(module: nnx.Module) -> dict[str, _traced_summary.Module]:
    """Let the calls of a module and of those within it be marked in traces; what they are."""
    owners = {path: part for path, part in nnx.iter_modules(module) if callable(part)}
    owned: dict[Any, list[Any]] = {path: [] for path in owners}
    for path, value in list(nnx.iter_graph(module)):
        if isinstance(value, nnx.Variable):
            owner = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in owners)
            owned[owner].append(value)
    found = {}
    for path, part in owners.items():
        name = ".".join(map(str, path))
        while name in found:  # of an attribute with a dot in its name
            name += "'"
        leaves = jax.tree.leaves([v.get_value() for v in owned[path] if isinstance(v, nnx.Param)])
        found[name] = _traced_summary.Module(
            type(part).__name__,
            sum(math.prod(leaf.shape) for leaf in leaves),
            isinstance(part, nnx.ConvTranspose),
            isinstance(part, nnx.BatchNorm),
        )
        object.__setattr__(part, "__class__", _marking(type(part), name))
    return found


@functools.cache
def _marking(kind: type, path: str) -> type:
    """The class of the module at this path, its calls marked.

    A class, and not one object's function in place of `__call__`: where Flax takes modules apart
    and puts them together again, in `nnx.jit` and the like, classes stay.
    """
    call: Callable[..., Any] = kind.__call__

    @functools.wraps(call)
    def marked(self: Any, *args: Any, **kwargs: Any) -> Any:
        _traced_summary.begin(path)
        return _traced_summary.end(path, call(self, *args, **kwargs))

    members = {"__call__": marked, "__module__": kind.__module__, "__doc__": kind.__doc__}
    pytree = getattr(kind, "_pytree__is_pytree", False)
    made = type(kind)(kind.__name__, (nnx.Module,), members, pytree=pytree)
    made.__bases__ = (kind,)  # so that no `__init_subclass__` of theirs runs
    return made
