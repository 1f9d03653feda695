"""Conversions between dtypes: bfloat16 by its bits.

A bfloat16 is the upper half of a float32. XLA:CPU converts one at a time where the processor has no
instruction for it, and takes twice as long as for the integers.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF

_BFLOAT16, _FLOAT32 = np.dtype(jnp.bfloat16), np.dtype(np.float32)
_SIGN, _NAN = np.uint32(0x80000000), np.uint32(0x7FC00000)


def cast(array: Array, dtype: Any) -> Array:
    """`array.astype(dtype)`, the same to the bit."""
    given, wanted = array.dtype, np.dtype(dtype)
    if (given, wanted) == (_BFLOAT16, _FLOAT32):
        return _widened(array)
    if (given, wanted) == (_FLOAT32, _BFLOAT16):
        return _rounded(array)
    return array.astype(dtype)


def bits(array: Array) -> Array:
    """Half precision as integers, all else as it is: where numbers are moved and not computed with,
    XLA:CPU would widen and round all of an array."""
    return lax.bitcast_convert_type(array, np.int16) if array.dtype in HALF else array


def from_bits(array: Array, dtype: Any) -> Array:
    """The inverse of `bits`, for numbers of this dtype."""
    return lax.bitcast_convert_type(array, dtype) if dtype in HALF else array


def _widened(array: Array) -> Array:
    word = lax.bitcast_convert_type(array, np.uint16).astype(np.uint32)
    return lax.bitcast_convert_type(word << np.uint32(16), _FLOAT32)


def _rounded(array: Array) -> Array:
    """To the nearest, of two as near to the one whose last bit is zero; NaN stays NaN."""
    word = lax.bitcast_convert_type(array, np.uint32)
    last = (word >> np.uint32(16)) & np.uint32(1)
    nearest = jnp.where(array != array, word & _SIGN | _NAN, word + np.uint32(0x7FFF) + last)
    return lax.bitcast_convert_type((nearest >> np.uint32(16)).astype(np.uint16), _BFLOAT16)
