"""oneDNN as XLA:CPU has it inside: its convolution and its matrix product, called by name.

XLA for x86 processors on Linux is built with oneDNN, the library that torch computes convolutions
with, and has instructions for it: custom calls `__onednn$convolution` and `__onednn$matmul`, which
its compiler writes where a flag asks for it. A program that says them itself needs no flag. Their
attributes are the message `BackendConfig` of XLA's `backend_config.proto`, as JSON. oneDNN ends the
process at a call that it cannot do, so callers must ask for possible ones alone.
"""

import functools
import json
import os
import pathlib
import platform
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, version

from .._form import PROJECTIONS, Problem
from ._frame import sum_dtype

#: Versions of jax whose XLA is known to read the attributes as they are written here: at least,
#: and below. Others go without.
KNOWN_VERSIONS = ((0, 10), (0, 13))
#: The environment variable that turns it off where it is "0".
SWITCH = "JAXCONV_ONEDNN"
#: What a processor needs: at all, for channels first, and for bfloat16.
AVX2 = frozenset(("avx2", "fma"))
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
BFLOAT16 = AVX512 | {"avx512_bf16"}
#: Elements of an array whose places its kernels count in 32 bits.
MOST_ELEMENTS = 2**31 - 1


class Axes(NamedTuple):
    """Which axis of an array is which: batch, or outputs of a kernel; channels; spatial ones."""

    outer: int
    channels: int
    spatial: tuple[int, ...]


def convolution(
    x: Array,
    w: Array,
    axes: tuple[Axes, Axes, Axes],
    shape: tuple[int, ...],
    dtype: Any,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """The cross-correlation of x and w, all arrays in whatever order of axes.

    `axes` are those of x, w and the result, `shape` and `dtype` the result's. Padding is not
    negative; all else as in `jax.lax.conv_general_dilated`.
    """

    def data(order: Axes) -> dict[str, Any]:
        names = {"batch_dim": order.outer, "feature_dim": order.channels}
        return {"dims": x.ndim, "data": names | {"spatial_dims": order.spatial}}

    image, kernel, result = axes
    names = {"output_feature_dim": kernel.outer, "input_feature_dim": kernel.channels}
    low, high = zip(*padding, strict=True)
    config = {
        "dims": x.ndim,
        "input": data(image),
        "kernel": {"dims": x.ndim, "filter": names | {"spatial_dims": kernel.spatial}},
        "output": data(result),
        "window": {
            "pad_left": low,
            "pad_right": high,
            "strides": tuple(stride),
            "window_dilations": tuple(dilation),
        },
        "feature_groups": groups,
    }
    like = jax.ShapeDtypeStruct(shape, dtype)
    return _call("__onednn$convolution", {"onednn_conv_config": config}, like, x, w)


def product(a: Array, b: Array, axes: tuple[int, int], dtype: Any) -> Array:
    """The product of two matrices, summed over these axes."""
    turned = {"transpose_a": axes[0] == 0, "transpose_b": axes[1] == 1}
    like = jax.ShapeDtypeStruct((a.shape[1 - axes[0]], b.shape[1 - axes[1]]), dtype)
    return _call("__onednn$matmul", {"onednn_matmul_config": turned}, like, a, b)


def multiplied(
    problem: Problem,
    a: Array,
    b: Array,
    axes: tuple[int, int] = (1, 0),
    half_to: Any = np.float32,
) -> Array:
    """The product of two matrices, summed over these axes.

    By oneDNN in bfloat16, to `half_to`, as XLA:CPU would widen both; and of a turned factor, `a' b`
    or `a b'`, as kernel gradients and what goes back through 1x1 are, which XLA:CPU takes up to
    three times as long for.
    """
    half = {a.dtype, b.dtype} == {np.dtype(jnp.bfloat16)}
    turned = axes in ((0, 0), (1, 1)) and a.dtype == b.dtype == np.float32
    if is_for(problem) and (half or turned):
        return product(a, b, axes, half_to if half else a.dtype)
    sides = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, sides, precision=problem.form.precision)


across = functools.partial(multiplied, axes=(0, 0))


def is_turned(problem: Problem, left: int, right: int) -> bool:
    """Whether `b' a` is faster than `a' b`, of so many columns: XLA:CPU takes half the time with
    the wider one on the right. oneDNN cuts what is on the right into 64 columns, the last of which
    may be few, for each core, and two thirds of the time may do with 32 or 48 there."""
    narrow, wide = sorted((left, right))
    single = sum_dtype(problem) == np.float32 and is_for(problem)
    to_left = single and narrow in (32, 48) and wide % 8 == 0 and wide % 64 != 0
    return right == wide if to_left and left != right else left > right


def factor_dtype(problem: Problem) -> np.dtype:
    """What factors of products are to be in: bfloat16 where they are and oneDNN takes them, else
    what is summed in."""
    first, second, _ = PROJECTIONS[problem.projection]
    half = np.dtype(jnp.bfloat16)
    given = {problem.form.dtype(first), problem.form.dtype(second)}
    if given == {half} and is_for(problem) and takes((half, half, half), channels_last=True):
        return half
    return sum_dtype(problem)


def _call(target: str, config: Any, result: jax.ShapeDtypeStruct, *operands: Array) -> Array:
    return jax.ffi.ffi_call(
        target, result, custom_call_api_version=2, legacy_backend_config=json.dumps(config)
    )(*operands)


@functools.cache
def is_there() -> bool:
    """Whether the XLA that is installed has oneDNN and is known: one little program says so."""
    found = tuple(int(part) for part in re.findall(r"\d+", version.__version__)[:2])
    least, below = KNOWN_VERSIONS
    if sys.platform != "linux" or platform.machine() != "x86_64" or not least <= found < below:
        return False
    if not _features() >= AVX2 or _is_limited() or os.environ.get(SWITCH) == "0":
        return False
    compiled: list[bool] = []
    # In a thread of its own, as what is traced or set in this one must not reach it.
    thread = threading.Thread(target=lambda: compiled.append(_compiles()))
    thread.start()
    thread.join()
    return compiled == [True]


def _compiles() -> bool:
    """Whether XLA:CPU compiles the calls; nothing is run."""
    try:
        cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        matrix = jax.ShapeDtypeStruct((2, 2), np.float32, sharding=cpu)
        multiply = functools.partial(product, axes=(1, 0), dtype=np.float32)
        jax.jit(multiply).lower(matrix, matrix).compile()
    except RuntimeError:
        return False
    return True


def is_for(problem: Problem) -> bool:
    """Whether the program of a problem may call it: one that is compiled here, for one CPU, and
    not written down: XLA fails to write what it has compiled of these calls."""
    return problem.on_one_cpu and problem.static and not problem.portable and is_there()


def takes(dtypes: Sequence[Any], channels_last: bool) -> bool:
    """Whether there are convolutions of operands to a result of these dtypes in this layout: single
    precision, with channels first by AVX-512 alone; bfloat16, summed in single precision, with
    channels last, and by AVX-512 without tiles, which nobody has tried."""
    *operands, result = map(np.dtype, dtypes)
    if set(operands) == {np.dtype(jnp.bfloat16)} and result in (operands[0], np.float32):
        return channels_last and _features() >= BFLOAT16 and "amx_tile" not in _features()
    if {*operands, result} != {np.dtype(np.float32)}:
        return False
    return channels_last or _features() >= AVX512


@functools.cache
def _features() -> frozenset[str]:
    """What Linux says that the processor has."""
    found = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return frozenset(found[1].split() if found else ())


def _is_limited() -> bool:
    """Whether somebody has oneDNN use less than what the processor has."""
    return not {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}.isdisjoint(os.environ)
