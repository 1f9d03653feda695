"""The static side of the core: what is fixed about a trilinear form before any number is known.

    T(x, w, y) = <conv(x, w), y> = sum over n, o, s, i, a of
                 x[n, (g, i), s*stride + a*dilation - low] * w[(g, o), i, a] * y[n, (g, o), s]

is linear in each of its three arrays. Leaving one out gives a bilinear map, a *projection*:

    output       (x, w) -> y      the layer's forward pass
    input_grad   (y, w) -> x      its transpose in x, the transposed convolution
    kernel_grad  (x, y) -> w      its transpose in w

The transpose of any projection in any argument is another of the three. Here stand only their
shapes and dtypes; `_primitives` makes them JAX primitives, `_algorithms` computes them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ._geometry import Geometry, Partition
from ._layout import Layout

Shape = tuple[int, ...]

#: Each projection's two operands and its result.
PROJECTIONS = {
    "output": ("x", "w", "y"),
    "input_grad": ("y", "w", "x"),
    "kernel_grad": ("x", "y", "w"),
}


@dataclasses.dataclass(frozen=True)
class Form:
    """The one static parameter of the three projections.

    Attributes:
        geometry: the integers, see `Geometry`.
        layout: the order of axes; images have exactly one batch axis here.
        dtypes: of x, w and y. A projection's result takes the dtype of the array it leaves out,
            so that transposes keep dtypes by themselves.
        precision: as in `jax.lax.conv_general_dilated`, for x and w.
        algorithm: what the caller asked for, `"auto"` or a name.
    """

    geometry: Geometry
    layout: Layout
    dtypes: tuple[np.dtype, np.dtype, np.dtype]
    precision: Any = None
    algorithm: str = "auto"

    def dtype(self, array: str) -> np.dtype:
        """The dtype of `"x"`, `"w"` or `"y"`."""
        return self.dtypes["xwy".index(array)]

    def result_shape(self, projection: str, a: Shape, b: Shape) -> Shape:
        """The shape that a projection gives for operands of shapes `a` and `b`."""
        layout, geometry = self.layout, self.geometry
        if projection == "output":
            c_o, _, _ = layout.split_kernel(b)
            return layout.image((a[0],), c_o, geometry.output)
        if projection == "input_grad":
            _, c_i, _ = layout.split_kernel(b)
            return layout.image((a[0],), c_i * geometry.groups, geometry.spatial)
        c_i, c_o = layout.channels(a), layout.channels(b)
        return layout.kernel(c_o, c_i // geometry.groups, geometry.window)


@dataclasses.dataclass(frozen=True)
class PoolForm:
    """The one static parameter of the window maps, on images `(n, *spatial, c)`.

    Attributes:
        geometry: the integers: windows of one size, or the unequal ones of an adaptive pool. Where
            an index says what goes where, only its sizes count.
        dtypes: of the input and of the output, equal but for sums that widen.
    """

    geometry: Geometry | Partition
    dtypes: tuple[np.dtype, np.dtype]

    def input_shape(self, output: Shape) -> Shape:
        """The shape of the input that an output, or columns, of this shape belong to."""
        return (output[0], *self.geometry.spatial, output[-1])

    def output_shape(self, input: Shape) -> Shape:
        """The shape of the output for an input of this shape."""
        return (input[0], *self.geometry.output, input[-1])

    def columns_shape(self, input: Shape) -> Shape:
        """The shape of all windows written out: taps before windows."""
        return (input[0], *self.geometry.window, *self.geometry.output, input[-1])


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that the choice of an algorithm, and the algorithm itself, may look at: no numbers.

    Attributes:
        projection: which map is to be computed.
        form: its static parameter.
        shapes: the shapes of its operands.
        platform: what is lowered for: `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`, or `"other"`.
        devices: how many of them the program is split over.
        portable: whether the program is written down, and may run elsewhere (`jax.export`).
        choose: the table's choice, for algorithms that reduce a problem to others.
    """

    projection: str
    form: Any
    shapes: tuple[Shape, ...]
    platform: str
    devices: int = 1
    portable: bool = False
    choose: Callable[["Problem"], Any] | None = dataclasses.field(default=None, compare=False)

    @property
    def static(self) -> bool:
        """Whether all sizes are known: batch sizes may be symbols (`jax.export`)."""
        return all(type(size) is int for shape in self.shapes for size in shape)

    @property
    def on_one_cpu(self) -> bool:
        """Whether it is lowered for a CPU, and not split over several."""
        return self.platform == "cpu" and self.devices == 1
