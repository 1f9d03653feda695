"""Every public function of arrays as a call of float arrays alone, for tests of transformations.

The first axis of the first array has four elements, so that it can be split over four devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cases
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from jaxconv import gradients


class Entry(NamedTuple):
    """A function, the shapes of what it takes, and in which of its arguments it is linear."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    linear: tuple[int, ...] = ()

    def arrays(self):
        """Seeded arrays without ties, of about unit size."""
        rng = np.random.default_rng(0)
        return tuple(
            jnp.asarray(cases.distinct(rng.normal(size=shape)) * 4 / np.prod(shape) + 0.01)
            for shape in self.shapes
        )


IMAGE, KERNEL, OUTPUT = (4, 2, 3, 4), (2, 2, 2, 2), (4, 2, 4, 5)
#: Positions in a 3 by 4 plane, each once, for the four windows of each channel.
INDEX = np.stack([np.random.default_rng(seed).permutation(12)[:4] for seed in range(8)])
INDEX = INDEX.reshape(4, 2, 2, 2).astype(np.int32)

FUNCTIONS = {
    "conv": Entry(lambda x, k: jc.conv(x, k, padding=1), (IMAGE, KERNEL), (0, 1)),
    "conv, bias": Entry(lambda x, k, b: jc.conv(x, k, b), (IMAGE, KERNEL, (2,))),
    "conv, reflect": Entry(
        lambda x, k: jc.conv(x, k, padding=1, padding_mode="reflect", groups=2),
        (IMAGE, (2, 1, 2, 2)),
        (0, 1),
    ),
    "conv_transpose": Entry(
        lambda y, k: jc.conv_transpose(y, k, stride=2), (IMAGE, KERNEL), (0, 1)
    ),
    "max_pool": Entry(lambda x: jc.max_pool(x, (2, 3), dilation=(2, 1)), (IMAGE,)),
    "min_pool": Entry(lambda x: jc.min_pool(x, (2, 2), stride=1), (IMAGE,)),
    "avg_pool": Entry(lambda x: jc.avg_pool(x, (2, 3), padding=1), (IMAGE,), (0,)),
    "lp_pool": Entry(lambda x: jc.lp_pool(x, (2, 2), padding=1), (IMAGE,)),
    "adaptive_avg_pool": Entry(lambda x: jc.adaptive_avg_pool(x, (2, 3)), (IMAGE,), (0,)),
    "adaptive_max_pool": Entry(lambda x: jc.adaptive_max_pool(x, (2, 3)), (IMAGE,)),
    "max_unpool": Entry(lambda y: jc.max_unpool(y, INDEX, (3, 4)), ((4, 2, 2, 2),), (0,)),
    "unfold": Entry(lambda x: jc.unfold(x, (2, 2), stride=(1, 2)), (IMAGE,), (0,)),
    "fold": Entry(lambda columns: jc.fold(columns, (3, 3), (2, 2)), ((4, 8, 4),), (0,)),
    "correlate": Entry(
        lambda x, k: jc.correlate(x, k, mode="same"), ((4, 5), (2, 3)), (0, 1)
    ),
    "convolve": Entry(lambda x, k: jc.convolve(x, k), ((4, 5), (2, 3)), (0, 1)),
    "corr2d": Entry(jc.corr2d, ((4, 5), (2, 3)), (0, 1)),
    "corr2d_multi_in": Entry(jc.corr2d_multi_in, ((4, 3, 4), (4, 2, 3)), (0, 1)),
    "corr2d_multi_in_out": Entry(jc.corr2d_multi_in_out, ((4, 3, 4), (2, 4, 2, 3)), (0, 1)),
    "corr2d_multi_in_out_1x1": Entry(
        jc.corr2d_multi_in_out_1x1, ((4, 3, 4), (2, 4, 1, 1)), (0, 1)
    ),
    "pool2d": Entry(lambda X: jc.pool2d(X, (2, 2)), ((4, 5),)),
    "filters.apply": Entry(lambda x, k: jc.filters.apply(x, k), ((4, 5), (3, 3)), (0, 1)),
    "gradients.conv_kernel_grad": Entry(
        lambda x, dy: gradients.conv_kernel_grad(x, dy, KERNEL, padding=1),
        (IMAGE, OUTPUT),
        (0, 1),
    ),
    "gradients.conv_input_grad": Entry(
        lambda dy, k: gradients.conv_input_grad(dy, k, IMAGE, padding=1), (OUTPUT, KERNEL), (0, 1)
    ),
    "gradients.conv_bias_grad": Entry(
        lambda dy: gradients.conv_bias_grad(dy, layout="NCHW"), (OUTPUT,), (0,)
    ),
    "gradients.max_pool_grad": Entry(
        lambda x, dy: gradients.max_pool_grad(x, dy, (2, 2)), (IMAGE, (4, 2, 1, 2)), (1,)
    ),
    "gradients.avg_pool_grad": Entry(
        lambda dy: gradients.avg_pool_grad(dy, IMAGE, (2, 2)), ((4, 2, 1, 2),), (0,)
    ),
}  # fmt: skip
