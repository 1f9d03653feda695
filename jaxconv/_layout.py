"""Where the axes are: the six layout strings, read once at the door.

Works on shapes only, so that `geometry` can use it too.
"""

import dataclasses
from typing import Any

from . import _check

LAYOUTS = {
    "NCW": (1, False),
    "NWC": (1, True),
    "NCHW": (2, False),
    "NHWC": (2, True),
    "NCDHW": (3, False),
    "NDHWC": (3, True),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The order of axes for `rank` spatial axes: channels before them or after.

    Images are `(*batch, c, *spatial)` or `(*batch, *spatial, c)`, kernels
    `(c_o, c_i // groups, *window)` or `(*window, c_i // groups, c_o)`.
    """

    rank: int
    channels_last: bool

    @classmethod
    def parse(cls, layout: Any, rank: int, source: str, shape: Any) -> "Layout":
        """`layout` for the rank that `source` (a kernel or window of this shape) has."""
        if not 1 <= rank <= 3:
            raise ValueError(f"{source} must have 1, 2 or 3 spatial axes; got {source} {shape}")
        if layout is None:
            return cls(rank, False)
        _check.choice("layout", layout, tuple(LAYOUTS))
        found, channels_last = LAYOUTS[layout]
        if found != rank:
            fitting = [name for name, (axes, _) in LAYOUTS.items() if axes == rank]
            raise ValueError(
                f"layout {layout!r} has {found} spatial axes but {source} {shape} has {rank}; "
                f"needed is one of {', '.join(fitting)}"
            )
        return cls(rank, channels_last)

    def spatial(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes in an image's shape."""
        return shape[-self.rank - 1 : -1] if self.channels_last else shape[-self.rank :]

    def channels(self, shape: tuple[int, ...]) -> int:
        """The number of channels in an image's shape."""
        return shape[-1] if self.channels_last else shape[-self.rank - 1]

    def batch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes in an image's shape, possibly none."""
        return shape[: -self.rank - 1]

    def first_spatial(self, axes: int) -> int:
        """The first spatial axis of an image with so many axes."""
        return axes - self.rank - (1 if self.channels_last else 0)

    def image(
        self, batch: tuple[int, ...], channels: int, spatial: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The shape of an image."""
        return (*batch, *spatial, channels) if self.channels_last else (*batch, channels, *spatial)

    def kernel(self, c_o: int, c_i: int, window: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a kernel, `c_i` counted per group."""
        return (*window, c_i, c_o) if self.channels_last else (c_o, c_i, *window)

    def split_kernel(self, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """`(c_o, c_i // groups, window)` of a kernel's shape."""
        if self.channels_last:
            return shape[-1], shape[-2], shape[:-2]
        return shape[0], shape[1], shape[2:]

    @property
    def name(self) -> str:
        """The layout string."""
        parts = (self.rank, self.channels_last)
        return next(name for name, found in LAYOUTS.items() if found == parts)

    @property
    def channel_axis(self) -> int:
        """The channel axis of an image with one batch axis."""
        return self.rank + 1 if self.channels_last else 1

    @property
    def kernel_axes(self) -> tuple[int, int]:
        """The output and input channel axes of a kernel."""
        return (self.rank + 1, self.rank) if self.channels_last else (0, 1)

    @property
    def image_form(self) -> str:
        """How an image's shape is written in messages."""
        return "(*batch, *spatial, c)" if self.channels_last else "(*batch, c, *spatial)"

    @property
    def kernel_form(self) -> str:
        """How a kernel's shape is written in messages."""
        if self.channels_last:
            return "(*window, c_i // groups, c_o)"
        return "(c_o, c_i // groups, *window)"

    def check_image(self, name: str, shape: tuple[int, ...]) -> None:
        """An image needs its channel and its spatial axes."""
        if len(shape) < self.rank + 1:
            raise ValueError(
                f"{name} must be {self.image_form} with {self.rank} spatial axes, at least "
                f"{self.rank + 1} axes in all; got shape {shape}"
            )

    def check_window(self, kernel_name: str, shape: tuple[int, ...]) -> None:
        """A kernel needs at least one tap on every axis."""
        if 0 in self.split_kernel(shape)[2]:
            raise ValueError(
                f"{kernel_name} must have at least one tap on every spatial axis; got "
                f"{self.kernel_form} = {shape}"
            )

    def check_groups(self, kernel_name: str, shape: tuple[int, ...], groups: int) -> None:
        """The kernel's output channels split evenly into groups."""
        c_o = self.split_kernel(shape)[0]
        if c_o % groups:
            raise ValueError(
                f"groups must divide the {c_o} output channels of {kernel_name}, "
                f"{self.kernel_form} = {shape}; got groups={groups}"
            )

    def match(
        self,
        x_shape: tuple[int, ...],
        kernel_shape: tuple[int, ...],
        groups: int,
        names: tuple[str, str] = ("x", "kernel"),
    ) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """`(c_i, c_o, spatial, window)` of an image and the kernel that reads it."""
        x_name, kernel_name = names
        self.check_image(x_name, x_shape)
        c_o, per_group, window = self.split_kernel(kernel_shape)
        c_i = self.channels(x_shape)
        if c_i != per_group * groups:
            raise ValueError(
                f"{kernel_name} must have c_i / groups = {c_i} / {groups} input channels, as "
                f"{x_name} {self.image_form} = {x_shape} has {c_i} channels; got {kernel_name} "
                f"{self.kernel_form} = {kernel_shape} with {per_group}"
                f"{self._hint(x_shape, kernel_shape, groups, kernel_name)}"
            )
        self.check_groups(kernel_name, kernel_shape, groups)
        return c_i, c_o, self.spatial(x_shape), window

    def _hint(
        self, x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], groups: int, kernel_name: str
    ) -> str:
        """That the other layout may be meant, where its channels are as many as a kernel reads."""
        other = Layout(self.rank, not self.channels_last)
        read = [order.split_kernel(kernel_shape)[1] * groups for order in (self, other)]
        if other.channels(x_shape) not in read:
            return ""
        return (
            f"; channels {'last' if other.channels_last else 'first'} is layout={other.name!r}, "
            f"with {kernel_name} {other.kernel_form}"
        )
