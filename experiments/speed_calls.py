"""What `speed.py` times: one pass of one cell, by jaxconv, by lax and by torch.

`jax_call` and `torch_call` give a function without arguments that computes the pass once and waits
for it, and the arrays that go into it. Both are given the same numbers, channels first.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from speed_cells import Cell

import jaxconv as jc

torch: Any = None
if importlib.util.find_spec("torch"):
    import torch

FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


class Pass(NamedTuple):
    """A compiled pass and its operands.

    Attributes:
        function: jitted, of the operands.
        operands: arrays on the device.
        to_first: how the result's axes are moved to compare it with others.
    """

    function: Any
    operands: tuple[Any, ...]
    to_first: Callable[[Any], np.ndarray]

    def __call__(self) -> None:
        """Compute it once."""
        jax.block_until_ready(self.function(*self.operands))

    def value(self) -> np.ndarray:
        """The result, channels first, in float64."""
        return self.to_first(np.asarray(self.function(*self.operands), np.float64))


def per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pairs(cell: Cell) -> tuple[tuple[int, int], ...]:
    padding = cell.options.get("padding", 0)
    if isinstance(padding, int):
        return ((padding, padding),) * cell.rank
    return padding


def strides(cell: Cell) -> tuple[int, ...]:
    return per_axis(cell.options.get("stride", cell.kernel if cell.pool else 1), cell.rank)


def operands(cell: Cell, dtype: str) -> tuple[np.ndarray, ...]:
    """Image, kernel (if there is one) and the error that comes back from above: random, seeded."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=cell.image)
    if cell.pool:
        result = jc.geometry.pool_output_shape(
            cell.image[2:], cell.kernel, stride=strides(cell), padding=pairs(cell)
        )
        arrays = (image, rng.normal(size=(*cell.image[:2], *result)))
    else:
        kernel = rng.normal(size=cell.kernel)
        shape = jax.eval_shape(ours(cell, False), image, kernel).shape
        arrays = (image, kernel, rng.normal(size=shape))
    return tuple(array.astype(getattr(jnp, dtype)) for array in arrays)


# JAX: ours and lax's, both differentiated by JAX.


def ours(cell: Cell, last: bool) -> Callable[..., Any]:
    layout = (LAST if last else FIRST)[cell.rank]
    function = getattr(jc, cell.kind)
    if cell.pool:
        return lambda x: function(x, cell.kernel, layout=layout, **cell.options)
    return lambda x, w: function(x, w, layout=layout, **cell.options)


def laxs(cell: Cell, last: bool) -> Callable[..., Any]:
    if cell.pool:
        return functools.partial(_lax_pool, cell, last)
    layout = (LAST if last else FIRST)[cell.rank]
    spatial = layout.strip("NC")
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides(cell),
        padding=pairs(cell),
        rhs_dilation=per_axis(cell.options.get("dilation", 1), cell.rank),
        feature_group_count=cell.options.get("groups", 1),
        dimension_numbers=(layout, spatial + "IO" if last else "OI" + spatial, layout),
    )
    if cell.kind == "conv":
        return convolve

    def transposed(y, w):
        sizes = [
            (n - 1) * s - low - high + k
            for n, s, k, (low, high) in zip(
                cell.image[2:], strides(cell), cell.kernel[2:], pairs(cell), strict=True
            )
        ]
        batch, channels = cell.image[0], cell.kernel[1] * cell.options.get("groups", 1)
        shape = (batch, *sizes, channels) if last else (batch, channels, *sizes)
        x = jax.ShapeDtypeStruct(shape, y.dtype)
        return jax.linear_transpose(lambda x: convolve(x, w), x)(y)[0]

    return transposed


def _lax_pool(cell: Cell, last: bool, x: Any) -> Any:
    def around(values: Any, one: Any) -> list[Any]:
        return [one, *values, one] if last else [one, one, *values]

    window, stride = around(cell.kernel, 1), around(strides(cell), 1)
    padding = around(pairs(cell), (0, 0))
    if cell.kind == "max_pool":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding)
    return lax.reduce_window(x, 0.0, lax.add, window, stride, padding) / math.prod(cell.kernel)


def jax_call(
    make: Callable[[Cell, bool], Callable[..., Any]],
    cell: Cell,
    which: str,
    last: bool,
    dtype: str,
    scan: int = 0,
) -> Pass:
    """One pass of one cell, differentiated by JAX; `scan`: so often in a loop, 1 is outside of one,
    with the same extra product."""

    def move(array: np.ndarray, kernel: bool) -> Any:
        return np.moveaxis(array, (0, 1), (-1, -2)) if kernel else np.moveaxis(array, 1, -1)

    def back(array: np.ndarray) -> np.ndarray:
        if not last:
            return array
        if which == "kernel gradient":
            return np.moveaxis(array, (-1, -2), (0, 1))
        return np.moveaxis(array, -1, 1)

    arrays: list[Any] = list(operands(cell, dtype))
    if last:
        arrays = [move(array, len(arrays) == 3 and at == 1) for at, array in enumerate(arrays)]
    function, taken = _pass(make(cell, last), cell, which, arrays)
    placed = tuple(jnp.asarray(np.asarray(array, order="C")) for array in taken)
    if scan:
        function = _looped(function, scan) if scan > 1 else _scaled(function)
        placed = (jnp.ones((), dtype), *placed)
    return Pass(jax.jit(function), placed, back)


def _pass(function: Any, cell: Cell, which: str, arrays: list[Any]) -> tuple[Any, list[Any]]:
    """A pass as a function, and the arrays that it takes."""
    if which == "forward":
        return function, arrays[:-1]
    if cell.pool:
        return _pool_gradient(function, which, *arrays)
    x, w, dy = arrays
    image, kernel = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x, w))
    if which == "input gradient":
        return (
            lambda dy, w: jax.linear_transpose(lambda x: function(x, w), image)(dy)[0],
            [dy, w],
        )
    return lambda x, dy: jax.linear_transpose(lambda w: function(x, w), kernel)(dy)[0], [x, dy]


def _pool_gradient(function: Any, which: str, x: Any, dy: Any) -> tuple[Any, list[Any]]:
    """What is to be done after the forward pass, from what it has kept; or both passes."""
    if which == "both":
        return lambda x, dy: jax.vjp(function, x)[1](dy)[0], [x, dy]
    kept, structure = jax.tree.flatten(jax.jit(lambda x: jax.vjp(function, x)[1])(x))
    return lambda dy, *kept: jax.tree.unflatten(structure, kept)(dy)[0], [dy, *kept]


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with an operand times a number that is 1, but not to the compiler: the smallest
    that is not of integers. Integers, which winner an output has, change with the image from step
    to step: to them is added what is 0 in the same way."""

    def scaled(one, *arrays):
        real = [at for at, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.inexact)]
        least = min(real, key=lambda at: arrays[at].size)

        def changed(at: int, array: Any) -> Any:
            if at not in real:
                return array + (one - 1).astype(array.dtype)
            return array * one if at == least else array

        return function(*(changed(at, array) for at, array in enumerate(arrays)))

    return scaled


def _looped(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The scaled function so often, each time by a number from the result before: XLA would take
    work that is the same in each step out of the loop."""

    def looped(one, *arrays):
        def step(carry, _):
            result = _scaled(function)(carry[0], *arrays)
            return (one + 0 * result[(0,) * result.ndim], result), None

        result = jax.eval_shape(function, *arrays)
        start = one, jnp.zeros(result.shape, result.dtype)
        return lax.scan(step, start, None, length=times)[0][1]

    return looped


# torch.


def torch_call(cell: Cell, which: str, last: bool, dtype: str) -> Callable[[], None]:
    """One pass of one cell by torch: its forward, or autograd of one argument alone."""
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    arrays = [
        torch.from_numpy(np.asarray(array, np.float32 if dtype == "bfloat16" else dtype))
        .to(getattr(torch, dtype))
        .contiguous(memory_format=formats[cell.rank] if last else torch.contiguous_format)
        for array in operands(cell, dtype)
    ]
    function = _torch_function(cell)
    leaves, dy = arrays[:-1], arrays[-1]
    if which == "forward":

        def forward():
            with torch.inference_mode():
                function(*leaves)

        return forward
    leaf = leaves[1 if which == "kernel gradient" else 0].requires_grad_()
    if which == "both":
        return lambda: torch.autograd.grad(function(*leaves), leaf, dy)
    y = function(*leaves)
    return lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True)


def _torch_function(cell: Cell) -> Callable[..., Any]:
    function = getattr(torch.nn.functional, f"{cell.kind}{cell.rank}d")
    sides = pairs(cell)
    options = {"stride": strides(cell), "padding": [low for low, _ in sides]}
    if cell.pool:
        if cell.kind == "max_pool" and any(
            2 * p > k for p, k in zip(options["padding"], cell.kernel, strict=True)
        ):
            raise ValueError("torch pads by half a window at most")
        return lambda x: function(x, cell.kernel, **options)
    options["dilation"] = cell.options.get("dilation", 1)
    options["groups"] = cell.options.get("groups", 1)
    if all(low == high for low, high in sides):
        return lambda x, w: function(x, w, **options)
    flat = [side for pair in reversed(sides) for side in pair]
    options["padding"] = 0
    return lambda x, w: function(torch.nn.functional.pad(x, flat), w, **options)
