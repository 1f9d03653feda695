"""Checks and conversions of array arguments at the door: type, dtype, promotion, precision."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _check
from ._check import Pairs

#: What array arguments take; functions return `jax.Array`.
ArrayIn = jax.Array | np.ndarray
#: A dtype, or what NumPy makes one of.
DTypeLike = Any
#: None, a string, a `jax.lax.Precision`, or a pair of these for the two operands.
PrecisionLike = Any

#: What the arithmetic is defined for. Booleans, float8 and 2- and 4-bit integers are not.
NUMBERS = frozenset(
    np.dtype(dtype)
    for dtype in (
        jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64, jnp.complex64, jnp.complex128,
        jnp.int8, jnp.int16, jnp.int32, jnp.int64, jnp.uint8, jnp.uint16, jnp.uint32, jnp.uint64,
    )
)  # fmt: skip
#: Elements of at most 16 bytes that 63 bits can count the bytes of.
MOST_ELEMENTS = 2**59
#: XLA:CPU reads memory that is not its own from about twice this padding on.
MOST_PADDING = 2**26
HALF = (np.dtype(jnp.bfloat16), np.dtype(np.float16))


def accumulator(dtype: Any) -> np.dtype:
    """What sums of this dtype are kept in: float32 for half precision, else itself."""
    return np.dtype(np.float32) if dtype in HALF else np.dtype(dtype)


def array(name: str, value: Any) -> Any:
    """`value` if it is an array of numbers: a jax or NumPy array, or what converts to one.

    Raises:
        TypeError: for anything else, and for dtypes without arithmetic.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask; got {_check.describe(value)}")
    if not isinstance(value, (jax.Array, np.ndarray)):
        convert = getattr(value, "__jax_array__", None)
        if convert is None:
            raise TypeError(f"{name} must be a jax or NumPy array; got {_check.describe(value)}")
        value = convert()
    if value.dtype not in NUMBERS:
        raise TypeError(
            f"{name} must have a float (16 bits or more), complex or integer (8 bits or more) "
            f"dtype; got {value.dtype} of shape {value.shape}"
        )
    return value


def ordered(name: str, value: Any) -> Any:
    """`value` if it is an array of real numbers.

    Raises:
        TypeError: for complex numbers, and for all that `array` refuses.
    """
    value = array(name, value)
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, as complex numbers have no order; got {value.dtype}")
    return value


def static_shape(name: str, shape: tuple[Any, ...], sizes: tuple[Any, ...]) -> None:
    """Spatial sizes must be plain ints; batch sizes may be symbolic (`jax.export`).

    Raises:
        ValueError: naming the array whose spatial sizes are symbolic.
    """
    if not all(type(size) is int for size in sizes):
        raise ValueError(f"{name} must have static spatial sizes; got shape {shape}")


def computable(name: str, shape: tuple[Any, ...]) -> None:
    """XLA counts bytes in 64 bits, and ends the process where they do not suffice.

    Raises:
        ValueError: naming the argument that asks for such a result.
    """
    if math.prod(size for size in shape if type(size) is int) > MOST_ELEMENTS:
        raise ValueError(f"{name} must leave a result that fits into memory; got {shape}")


def paddable(pairs: Pairs) -> None:
    """Padding of an array stops where XLA is no longer to be trusted; that of integers does not.

    Raises:
        ValueError: for more than `MOST_PADDING` elements, named paddings resolved.
    """
    if max(map(max, pairs)) > MOST_PADDING:
        raise ValueError(
            f"padding must add at most {MOST_PADDING} elements on each side of an array; "
            f"got {pairs}"
        )


def dtype(name: str, value: Any) -> np.dtype:
    """`value` as a NumPy dtype; a TypeError for what is none, arrays among it."""
    try:
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            raise TypeError
        return np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"{name} must be a dtype; got {_check.describe(value)}") from None


def result_dtype(operand: np.dtype, preferred: np.dtype | None) -> np.dtype:
    """The output's dtype: the promoted operands', or the preferred one where it is wide enough.

    Raises:
        TypeError: when `preferred` is no dtype of numbers, of another kind, or narrower; the same
            pairs are allowed as in `jax.lax.conv_general_dilated`.
    """
    if preferred is None:
        return operand
    wanted = (
        np.dtype(jax.dtypes.canonicalize_dtype(preferred)) if preferred in NUMBERS else preferred
    )
    kinds = (jnp.signedinteger, jnp.unsignedinteger, jnp.floating, jnp.complexfloating)
    same_kind = any(jnp.issubdtype(operand, k) and jnp.issubdtype(wanted, k) for k in kinds)
    widens = jnp.issubdtype(operand, jnp.integer) and jnp.issubdtype(wanted, jnp.floating)
    if wanted not in NUMBERS or not (same_kind or widens) or wanted.itemsize < operand.itemsize:
        raise TypeError(
            f"preferred_element_type must be of the kind of the inputs' {operand} (or floating for "
            f"integers) and no narrower; got {wanted}"
        )
    return wanted


def precision(value: Any) -> Any:
    """`precision` in lax's normal form: None, or a pair of `lax.Precision`.

    Raises:
        ValueError: for a name that lax does not know.
        TypeError: for what is no precision at all.
    """
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"precision must be one value or a pair, for x and kernel; got {_check.show(value)}"
        )
    return tuple(_one_precision(item) for item in pair)


def default_precision() -> Any:
    """What `jax.default_matmul_precision` asks for, to be read while a call is traced."""
    try:
        return precision(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError:  # a dot-algorithm preset, which no convolution has: left to lax
        return None


def _one_precision(item: Any) -> lax.Precision:
    if item is None:
        return lax.Precision.DEFAULT
    if not isinstance(item, (str, lax.Precision)):
        raise TypeError(
            f"precision must be None, a string or a jax.lax.Precision, or a pair of these; "
            f"got {_check.describe(item)}"
        )
    try:
        return lax.Precision(item)
    except ValueError:
        names = ", ".join(sorted(level.name.lower() for level in lax.Precision))
        raise ValueError(f"precision must be one of {names}; got {item!r}") from None


def promote(*arrays: Any) -> tuple[Any, ...]:
    """The arrays in their common dtype, as `jax.numpy` promotes (None stays)."""
    dtype = jnp.result_type(*(value for value in arrays if value is not None))
    return tuple(value if value is None else jnp.asarray(value).astype(dtype) for value in arrays)
