"""The integers behind every convolution and pool.

Along one axis, with `n` input elements, a window of `k` taps, stride `s`, dilation `d` and padding
`(low, high)`, output `i` reads the input at `i*s + a*d - low` for taps `a = 0..k-1`. All else here,
and in the public `geometry`, follows from that line: that is a `Geometry`. The windows of adaptive
pools, which are not of one size, are a `Partition`.
"""

import dataclasses
import functools

from ._check import Pairs

Ints = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The integers that fix a convolution or a pooling: one entry per spatial axis.

    Attributes:
        spatial: input sizes `n`.
        window: taps `k`, at least 1.
        stride: step `s` between windows, at least 1.
        padding: `(low, high)` elements added before and after; negative ones are cropped.
        dilation: step `d` between the taps of a window, at least 1.
        groups: number of blocks the channels are split into.
    """

    spatial: Ints
    window: Ints
    stride: Ints
    padding: Pairs
    dilation: Ints
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @functools.cached_property
    def extent(self) -> Ints:
        """What a dilated window spans: `d*(k-1) + 1`."""
        return extents(self.window, self.dilation)

    @functools.cached_property
    def padded(self) -> Ints:
        """Sizes of the padded input: `n + low + high`."""
        pairs = zip(self.spatial, self.padding, strict=True)
        return tuple(n + low + high for n, (low, high) in pairs)

    @functools.cached_property
    def output(self) -> Ints:
        """Output sizes: `floor((n + low + high - extent) / s) + 1`."""
        axes = zip(self.padded, self.extent, self.stride, strict=True)
        return tuple((n - extent) // s + 1 for n, extent, s in axes)

    @functools.cached_property
    def read(self) -> Ints:
        """What all windows together read of the padded input: `(m - 1) * s + extent`."""
        axes = zip(self.output, self.stride, self.extent, strict=True)
        return tuple((m - 1) * s + extent for m, s, extent in axes)


@dataclasses.dataclass(frozen=True)
class Partition:
    """The windows of an adaptive pool: `m` of them cover `n` elements as evenly as they can.

    Window i is `[floor(i*n/m), ceil((i+1)*n/m))`. Element t lies in it just when i lies in window t
    of the partition with n and m exchanged: `floor(i*n/m) <= t` says `i*n/m < t + 1`, that is
    `i < (t+1)*m/n`, and `t < ceil((i+1)*n/m)` says `i + 1 > t*m/n`. So the adjoint of summing over
    a partition is summing over the exchanged one.

    Attributes:
        spatial: sizes `n`, at least 1 where anything is read.
        output: numbers of windows `m`.
    """

    spatial: Ints
    output: Ints

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def window(self) -> Ints:
        """The largest windows: the number of elements of the longest one on each axis."""
        axes = range(self.rank)
        spans = (self.spans(axis) for axis in axes)
        return tuple(max((stop - start for start, stop in span), default=1) for span in spans)

    @property
    def exchanged(self) -> "Partition":
        """The partition whose sums are the adjoint of this one's."""
        return Partition(self.output, self.spatial)

    def spans(self, axis: int) -> tuple[tuple[int, int], ...]:
        """Start and stop of each window along an axis."""
        n, m = self.spatial[axis], self.output[axis]
        return tuple((i * n // m, -(-(i + 1) * n // m)) for i in range(m))


def extents(window: Ints, dilation: Ints) -> Ints:
    """What dilated windows span: `d*(k-1) + 1` along each axis."""
    return tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))


def resolve_padding(
    padding: str | Pairs, spatial: Ints, window: Ints, stride: Ints, dilation: Ints
) -> Pairs:
    """A padding in normal form as `(low, high)` pairs, for a forward convolution or pooling.

    `same` pads `max((ceil(n/s) - 1)*s + extent - n, 0)` in all, the odd one at the high end
    (`same_lower`: at the low end); `full` pads `extent - 1` on both sides, `causal` on the low one.
    """
    if not isinstance(padding, str):
        return padding
    axes = zip(spatial, extents(window, dilation), stride, strict=True)
    return tuple(_named_padding(padding, n, extent, s) for n, extent, s in axes)


def _named_padding(name: str, n: int, extent: int, stride: int) -> tuple[int, int]:
    if name in ("same", "same_lower"):
        outputs = -(-n // stride)
        total = max((outputs - 1) * stride + extent - n, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if name == "same" else (more, less)
    reach = extent - 1
    return {"valid": (0, 0), "full": (reach, reach), "causal": (reach, 0)}[name]


def conv_geometry(
    spatial: Ints,
    window: Ints,
    stride: Ints,
    padding: str | Pairs,
    dilation: Ints,
    groups: int = 1,
    *,
    source: str = "x",
    window_source: str = "window",
) -> Geometry:
    """The geometry of a forward convolution, its paddings resolved and its windows seen to fit.

    Raises:
        ValueError: when a dilated window is larger than the padded input.
    """
    pairs = resolve_padding(padding, spatial, window, stride, dilation)
    geometry = Geometry(spatial, window, stride, pairs, dilation, groups)
    _check_fits(geometry, spatial, pairs, source, window_source)
    return geometry


def _check_fits(
    geometry: Geometry, spatial: Ints, pairs: Pairs, source: str, window_source: str
) -> None:
    """`spatial` and `pairs` are the caller's, for the message."""
    fits = all(e <= n for e, n in zip(geometry.extent, geometry.padded, strict=True))
    if not fits:
        padded = tuple(n + low + high for n, (low, high) in zip(spatial, pairs, strict=True))
        raise ValueError(
            f"{window_source} {geometry.window} with dilation {geometry.dilation} spans "
            f"{geometry.extent}, which is larger than the padded input {padded}: {source} has "
            f"spatial shape {spatial}, padding is {pairs}; a smaller window or dilation or more "
            f"padding is needed"
        )


def transpose_geometry(
    outputs: Ints,
    window: Ints,
    stride: Ints,
    padding: str | Pairs,
    output_padding: Ints,
    dilation: Ints,
    groups: int = 1,
    *,
    source: str = "y",
) -> Geometry:
    """The geometry of the convolution whose adjoint takes `outputs` back to its input.

    `spatial` is the transposed convolution's result, `output` its input. The high padding is
    lowered by `output_padding`, so that the last window ends on the result's last element.

    Raises:
        ValueError: when the result would have a negative size, or `output_padding` is not below
            the larger of stride and dilation.
    """
    _check_output_padding(output_padding, stride, dilation)
    if 0 in outputs:
        raise ValueError(
            f"{source} must have at least one element on every spatial axis; got {outputs}"
        )
    axes = zip(outputs, extents(window, dilation), stride, strict=True)
    if isinstance(padding, str):
        pairs = tuple(_named_transpose_padding(padding, m, extent, s) for m, extent, s in axes)
    else:
        pairs = padding
    pairs = tuple(
        (low, high - extra) for (low, high), extra in zip(pairs, output_padding, strict=True)
    )
    spatial = tuple(
        (m - 1) * s - low - high + extent
        for m, s, (low, high), extent in zip(
            outputs, stride, pairs, extents(window, dilation), strict=True
        )
    )
    if min(spatial) < 0:
        raise ValueError(
            f"padding removes more than there is: the output would have spatial shape {spatial} "
            f"for {source}'s {outputs}, window {window}, stride {stride}, dilation {dilation}; "
            f"a smaller padding is needed"
        )
    return Geometry(spatial, window, stride, pairs, dilation, groups)


def _check_output_padding(output_padding: Ints, stride: Ints, dilation: Ints) -> None:
    for axis, (extra, s, d) in enumerate(zip(output_padding, stride, dilation, strict=True)):
        if extra >= max(s, d):
            raise ValueError(
                f"output_padding must be smaller than the larger of stride and dilation; got "
                f"{extra} on axis {axis}, where stride is {s} and dilation {d}"
            )


def _named_transpose_padding(name: str, m: int, extent: int, stride: int) -> tuple[int, int]:
    """`same` crops `extent - stride`, so that the result has `m*stride` elements; where that is
    negative (the stride exceeds the window) zeros come at the end."""
    if name in ("same", "same_lower") and extent < stride:
        return 0, extent - stride
    return _named_padding(name, m * stride, extent, stride)


def pool_geometry(
    spatial: Ints,
    window: Ints,
    stride: Ints,
    padding: str | Pairs,
    dilation: Ints,
    ceil_mode: bool,
) -> tuple[Geometry, Pairs]:
    """The geometry of a pooling, and its padding before the overhang of `ceil_mode`.

    In ceil mode the last window may reach beyond the padding, but must start in the input or in the
    low padding (torch's rule). That overhang is in the geometry's high padding only, and what a
    negative high padding crops is gone from its `spatial`, lest the overhang read it again.

    Raises:
        ValueError: padding as large as the dilated window, or a window that does not fit.
    """
    pairs = resolve_padding(padding, spatial, window, stride, dilation)
    extent = extents(window, dilation)
    for axis, (pair, span) in enumerate(zip(pairs, extent, strict=True)):
        if max(pair) >= span:
            raise ValueError(
                f"padding must be smaller than the span {extent} of the dilated window; got "
                f"{pair} on axis {axis}"
            )
    if not ceil_mode:
        return conv_geometry(spatial, window, stride, pairs, dilation), pairs
    left = [n + min(high, 0) for n, (_, high) in zip(spatial, pairs, strict=True)]
    kept = tuple(max(n, 0) for n in left)
    # What is cropped beyond the input goes from the padding before it.
    explicit = tuple(
        (low + min(n, 0), max(high, 0)) for n, (low, high) in zip(left, pairs, strict=True)
    )
    reached = []
    for n, (low, high), span, s in zip(kept, explicit, extent, stride, strict=True):
        outputs = -(-(n + low + high - span) // s) + 1
        if (outputs - 1) * s >= n + low:
            outputs -= 1
        reached.append((low, (outputs - 1) * s + span - n - low))
    geometry = Geometry(kept, window, stride, tuple(reached), dilation)
    _check_fits(geometry, spatial, pairs, "x", "window")
    return geometry, explicit
