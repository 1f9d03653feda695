"""Types of options that signatures share. Those of arrays are in `_arrays`."""

from collections.abc import Sequence
from typing import SupportsIndex

#: An int for every spatial axis, or one int per axis.
PerAxis = SupportsIndex | Sequence[SupportsIndex]
#: An int, one int per axis, one (low, high) pair per axis, or a name.
Padding = SupportsIndex | str | Sequence[SupportsIndex] | Sequence[Sequence[SupportsIndex]]
