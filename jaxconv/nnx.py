"""`Conv`, `ConvTranspose`, `MaxPool`, `AvgPool` for Flax's nnx interface, computed by jaxconv.

Flax's own modules: the same arguments, parameters, initial values and results, so that changing the
import is the whole migration and a checkpoint moves over untouched. Beyond Flax's arguments there
is `padding_mode` for `Conv` (Flax has no replicated edges), `feature_group_count` for
`ConvTranspose` and `layout` for both; `load_torch` takes weights over. Needs Flax.
"""

import functools
from collections.abc import Sequence
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from . import _flax

#: Looked up once: people put these classes in the place of Flax's own.
_FLAXS_CALL = nnx.ConvTranspose.__call__


class Conv(nnx.Conv):
    """`flax.nnx.Conv` by jaxconv: the same but for speed, `padding_mode` and `load_torch`.

    Args:
        args, kwargs: those of `flax.nnx.Conv`.
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
        *args: Any,
        padding_mode: str = "zeros",
        layout: str | None = None,
        **kwargs: Any,
    ):
        ours = _flax.Convolve(padding_mode)
        super().__init__(*args, **{"conv_general_dilated": ours, **kwargs})
        self.layout = _flax.layout(layout, self.kernel_size)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """As in Flax, in the module's layout."""
        options = {} if out_sharding is None else {"out_sharding": out_sharding}
        call = functools.partial(super().__call__, **options)
        return _flax.in_layout(self.layout, call, inputs)

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
        args, kwargs: those of `flax.nnx.ConvTranspose`.
        feature_group_count: the number of groups. The kernel is `(*window, c_i // groups, c_o)`, or
            `(*window, c_o // groups, c_i)` with `transpose_kernel`.
        layout: as in `Conv`.

    >>> up = ConvTranspose(4, 6, (2, 2), strides=(2, 2), feature_group_count=2, rngs=nnx.Rngs(0))
    >>> up(jnp.ones((1, 7, 7, 4))).shape, up.kernel.shape
    ((1, 14, 14, 6), (2, 2, 2, 6))
    """

    def __init__(
        self,
        *args: Any,
        feature_group_count: int = 1,
        layout: str | None = None,
        **kwargs: Any,
    ):
        init = kwargs.get("kernel_init", nnx.initializers.lecun_normal())
        grouped = _flax.GroupedInit(init, feature_group_count)
        if feature_group_count > 1:
            kwargs["kernel_init"] = grouped
        super().__init__(*args, **kwargs)
        self.kernel_shape = grouped.shape(self.kernel_shape)
        self.feature_group_count = feature_group_count
        self.layout = _flax.layout(layout, self.kernel_size)

    def __call__(self, inputs: Array) -> Array:
        """As in Flax, in the module's layout."""
        call = _flax.transposed_call(_FLAXS_CALL, self.feature_group_count)
        return _flax.in_layout(self.layout, functools.partial(call, self), inputs)

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
        strides: elements from one window to the next, a sequence; None is 1 for each axis.
        padding: `"SAME"`, `"VALID"`, or one `(low, high)` pair per axis.

    >>> MaxPool((2, 2), strides=(2, 2))(jnp.ones((1, 28, 28, 3))).shape
    (1, 14, 14, 3)
    """

    def __init__(
        self,
        window_shape: Sequence[int],
        strides: Sequence[int] | None = None,
        padding: str | Sequence[tuple[int, int]] = "VALID",
    ):
        self.window_shape = tuple(window_shape)
        self.strides = None if strides is None else tuple(strides)
        self.padding = padding

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.max_pool(
            inputs, window_shape=self.window_shape, strides=self.strides, padding=self.padding
        )


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
        strides: Sequence[int] | None = None,
        padding: str | Sequence[tuple[int, int]] = "VALID",
        count_include_pad: bool = True,
    ):
        super().__init__(window_shape, strides, padding)
        self.count_include_pad = count_include_pad

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.avg_pool(
            inputs,
            window_shape=self.window_shape,
            strides=self.strides,
            padding=self.padding,
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
