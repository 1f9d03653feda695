"""Types that signatures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

#: What array arguments take; functions return `jax.Array`.
ArrayIn = Array | np.ndarray
#: An int for every spatial axis, or one int per axis.
PerAxis = int | Sequence[int]
#: An int, one int per axis, one (low, high) pair per axis, or a name.
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]
#: A dtype, or what NumPy makes one of.
DTypeLike = Any
#: None, a string, a `jax.lax.Precision`, or a pair of these for the two operands.
PrecisionLike = Any
