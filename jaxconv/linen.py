"""`Conv`, `ConvTranspose`, `MaxPool`, `AvgPool` for Flax's linen interface, computed by jaxconv.

Flax's own modules, see `jaxconv.nnx`: the same arguments, parameters, initial values and results.
Needs Flax.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen
from jax import Array

from . import _flax

#: Looked up once: people put these classes in the place of Flax's own.
_CONV, _TRANSPOSE = linen.Conv.__call__, linen.ConvTranspose.__call__


class Conv(linen.Conv):
    """`flax.linen.Conv` by jaxconv: the same but for speed and `padding_mode`.

    Attributes:
        padding_mode: what is added where `padding` says so: `"zeros"`, `"reflect"`, `"replicate"`
            or `"circular"`. All others are Flax's.

    >>> import jax, jax.numpy as jnp
    >>> conv = Conv(8, (3, 3), padding_mode="replicate")
    >>> y, variables = conv.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 3)))
    >>> y.shape, jax.tree.map(jnp.shape, variables)
    ((1, 28, 28, 8), {'params': {'bias': (8,), 'kernel': (3, 3, 3, 8)}})
    """

    padding_mode: str = "zeros"

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """As in Flax: `(*batch, *spatial, c_i)` to `(*batch, *spatial, features)`."""
        _flax.check_inputs(inputs, self.kernel_size, self.features, self.feature_group_count)
        _flax.check_mode(self.padding, self.padding_mode)
        return _flax.convolving_call(_CONV, self.padding_mode)(self, inputs)


class ConvTranspose(linen.ConvTranspose):
    """`flax.linen.ConvTranspose` by jaxconv: the same but for speed and groups.

    Attributes:
        feature_group_count: the number of groups. The kernel is `(*window, c_i // groups, c_o)`, or
            `(*window, c_o // groups, c_i)` with `transpose_kernel`. All others are Flax's; `mask`
            is for one group.

    >>> import jax, jax.numpy as jnp
    >>> up = ConvTranspose(6, (2, 2), strides=(2, 2), feature_group_count=2)
    >>> up.init_with_output(jax.random.key(0), jnp.ones((1, 7, 7, 4)))[0].shape
    (1, 14, 14, 6)
    """

    feature_group_count: int = 1

    @linen.nowrap
    def param(self, name: str, init_fn: Any, *init_args: Any, **init_kwargs: Any) -> Any:
        """As in Flax; the kernel for one group's inputs."""
        if name == "kernel" and self.feature_group_count > 1:
            init_fn = _flax.GroupedInit(init_fn, self.feature_group_count)
        return super().param(name, init_fn, *init_args, **init_kwargs)

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """As in Flax: `(*batch, *spatial, c_i)` to `(*batch, *spatial, c_o)`."""
        _flax.check_inputs(inputs, self.kernel_size, self.features, self.feature_group_count)
        call = _flax.transposed_call(_TRANSPOSE, self.feature_group_count)
        return call(self, inputs)


class MaxPool(linen.Module):
    """`flax.linen.max_pool` by jaxconv, as a module.

    Attributes:
        window_shape: elements per axis.
        strides: elements from one window to the next, per axis or, beyond Flax's, an int for all;
            None is 1 for each axis.
        padding: `"SAME"`, `"VALID"`, or one `(low, high)` pair per axis.

    >>> import jax.numpy as jnp
    >>> MaxPool((2, 2), strides=(2, 2)).apply({}, jnp.ones((1, 28, 28, 3))).shape
    (1, 14, 14, 3)
    """

    window_shape: Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "VALID"

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.max_pool(inputs, *_windows(self))


class AvgPool(MaxPool):
    """`flax.linen.avg_pool` by jaxconv, as a module.

    Attributes:
        window_shape, strides, padding: as in `MaxPool`.
        count_include_pad: whether padding counts.

    >>> import jax.numpy as jnp
    >>> AvgPool((2, 2), strides=(2, 2)).apply({}, jnp.ones((1, 28, 28, 3))).shape
    (1, 14, 14, 3)
    """

    count_include_pad: bool = True

    def __call__(self, inputs: Array) -> Array:
        """`(*batch, *spatial, c)` to the same with pooled sizes."""
        return _flax.avg_pool(inputs, *_windows(self), count_include_pad=self.count_include_pad)


def _windows(module: MaxPool) -> tuple[Any, Any, Any]:
    return _flax.windows(module.window_shape, module.strides, module.padding)
