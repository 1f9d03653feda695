"""The calls that `parity.py` makes: drawn at random, each with its peer in torch or scipy.

Here is what a configuration consists of, and one generator for each function. Nothing here computes
or compares. `change`, where it is given, makes a drawn call unusual: those are in `parity_cases`.
"""

import dataclasses
import importlib
import math
import operator
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.signal

import jaxconv as jc

try:
    torch: Any = importlib.import_module("torch")
except ImportError:
    torch = None

#: What makes a drawn call unusual; it sets entries of it.
Change = Callable[[Any], None]


class Call(NamedTuple):
    """One configuration, on both sides.

    `ours` and `peer` take the arrays in torch's form and return `(y, exact)`, with `exact` a tuple
    of integer arrays. `text` is the call as ours makes it.
    """

    arrays: tuple[np.ndarray, ...]
    ours: Callable[..., tuple[Any, tuple[Any, ...]]]
    peer: Callable[..., tuple[Any, tuple[Any, ...]]]
    text: str
    scipy: bool = False
    differentiable: bool = True


class Draw:
    """Random choices, seeded by what they are for."""

    def __init__(self, *seed: Any):
        self.rng = np.random.default_rng([zlib.crc32(str(part).encode()) for part in seed])

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high, endpoint=True))

    def pick_each(self, options: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
        """One of the options for every entry."""
        return self.rng.choice(options, shape)

    def each(self, rank: int, low: int, high: int) -> tuple[int, ...]:
        """A whole number for each axis."""
        return tuple(self.integer(low, high) for _ in range(rank))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def normal(self, shape: tuple[int, ...], dtype: Any = float) -> np.ndarray:
        """Normal numbers; whole ones from -9 to 8 for integers."""
        kind = np.dtype(dtype)
        if kind.kind in "iub":
            return self.rng.integers(-9, 9, shape).astype(kind)
        values = self.rng.normal(size=shape)
        if kind.kind == "c":
            values = values + 1j * self.rng.normal(size=shape)
        return values.astype(kind)


# How our side sees torch's arrays.


class View(NamedTuple):
    """A layout and a number of batch axes. Torch's arrays are channels first, with 0 or 1 of them.

    The methods only move axes, on NumPy and JAX arrays alike.
    """

    rank: int
    last: bool = False
    layout: str | None = None
    split: bool = False

    def image(self, x: Any) -> Any:
        """`(*batch, c, *spatial)` as ours takes it."""
        if self.last:
            first = x.ndim - self.rank - 1
            x = x.transpose(*range(first), *range(first + 1, x.ndim), first)
        return self._more_batch(x, x.ndim - self.rank - 1)

    def image_back(self, y: Any) -> Any:
        """What ours returns as torch has it."""
        y = self._less_batch(y)
        if self.last:
            first = y.ndim - self.rank - 1
            y = y.transpose(*range(first), y.ndim - 1, *range(first, y.ndim - 1))
        return y

    def kernel(self, w: Any) -> Any:
        """`(c_o, c_i // groups, *window)` as ours takes it."""
        return w.transpose(*range(2, w.ndim), 1, 0) if self.last else w

    def columns(self, columns: Any, taps: int) -> Any:
        """`(*batch, c * taps, L)` as ours takes it."""
        *batch, rows, length = columns.shape
        if self.last:
            apart = columns.reshape(*batch, rows // taps, taps, length)
            apart = apart.transpose(*range(len(batch)), *(len(batch) + axis for axis in (2, 1, 0)))
            columns = apart.reshape(*batch, length, rows)
        return self._more_batch(columns, len(batch))

    def columns_back(self, columns: Any, taps: int) -> Any:
        """What ours returns as torch has it."""
        columns = self._less_batch(columns)
        if not self.last:
            return columns
        *batch, length, rows = columns.shape
        apart = columns.reshape(*batch, length, taps, rows // taps)
        apart = apart.transpose(*range(len(batch)), *(len(batch) + axis for axis in (2, 1, 0)))
        return apart.reshape(*batch, rows, length)

    def _more_batch(self, x: Any, batch_axes: int) -> Any:
        if not self.split or batch_axes != 1:
            return x
        rows = max(x.shape[0] // 2, 1)
        return x.reshape(rows, x.shape[0] // rows, *x.shape[1:])

    def _less_batch(self, y: Any) -> Any:
        return y.reshape(y.shape[0] * y.shape[1], *y.shape[2:]) if self.split else y


def draw_view(draw: Draw, rank: int, batch: tuple[int, ...]) -> View:
    first, last = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[rank]
    layout = draw.pick((None, first, last, last))
    return View(rank, layout == last, layout, len(batch) == 1 and draw.chance(0.3))


def write(name: str, arrays: dict[str, Any], **options: Any) -> str:
    """A call to read: arrays by shape, options as given."""
    shapes = [f"{key} {value.dtype} {value.shape}" for key, value in arrays.items()]
    given = [f"{key}={value!r}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join(shapes + given)})"


# Windows: the integers of a call.


def per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * rank


@dataclasses.dataclass
class Windows:
    """Sizes and options along the spatial axes, the options as they are written in the call."""

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.window)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each axis."""
        return per_axis(self.window if self.stride is None else self.stride, self.rank)

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of each axis."""
        return per_axis(self.dilation, self.rank)

    @property
    def extents(self) -> tuple[int, ...]:
        """What the dilated window spans along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.window, self.dilations, strict=True))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The padding as (low, high) pairs."""
        if isinstance(self.padding, str):
            axes = zip(self.spatial, self.extents, self.strides, strict=True)
            return tuple(named_pair(self.padding, *axis) for axis in axes)
        each = self.padding if isinstance(self.padding, tuple) else (self.padding,) * self.rank
        return tuple(pair if isinstance(pair, tuple) else (pair, pair) for pair in each)

    @property
    def paired(self) -> bool:
        """Whether torch has no form for this padding, so that its `pad` must come first."""
        if isinstance(self.padding, str):
            return self.padding not in ("same", "valid") or (
                self.padding == "same" and set(self.strides) != {1}
            )
        return isinstance(self.padding, tuple) and isinstance(self.padding[0], tuple)

    @property
    def options(self) -> dict[str, Any]:
        """Ours."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def sizes(self, ceil: bool = False) -> tuple[int, ...]:
        """Number of windows per axis; in ceil mode the last one must start before the end."""
        found = []
        axes = zip(self.spatial, self.extents, self.strides, self.pairs, strict=True)
        for n, extent, s, (low, high) in axes:
            room = n + low + high - extent
            count = (-(-room // s) if ceil else room // s) + 1
            found.append(count - 1 if ceil and (count - 1) * s >= n + low else count)
        return tuple(found)

    def all_hold(self, ceil: bool = False) -> bool:
        """Whether each window holds an element. Torch's max-pool gradient writes outside of its
        memory where one does not."""
        axes = zip(
            self.sizes(ceil), self.spatial, self.window, self.strides, self.dilations, self.pairs,
            strict=True,
        )  # fmt: skip
        return all(
            any(0 <= i * s + a * d - low < n + min(high, 0) for a in range(k))
            for count, n, k, s, d, (low, high) in axes
            for i in range(count)
        )


def named_pair(name: str, n: int, extent: int, stride: int) -> tuple[int, int]:
    """A named padding along an axis, from the documentation's sentences."""
    total = max((math.ceil(n / stride) - 1) * stride + extent - n, 0)
    return {
        "valid": (0, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
        "full": (extent - 1, extent - 1),
        "causal": (extent - 1, 0),
    }[name]


NAMES = ("valid", "same", "same_lower", "full", "causal")


def draw_windows(
    draw: Draw,
    *,
    kinds: Sequence[str],
    dilate: float = 0.4,
    half: bool = False,
    mode: str = "zeros",
    rank: int = 0,
) -> Windows:
    """Windows that fit. `half`: no more padding than torch's pools take; `rank` 0: any."""
    rank = rank or draw.pick((1, 1, 2, 2, 2, 3))
    window = draw.each(rank, 1, 4 if rank == 1 else 3)
    stride: Any = draw.each(rank, 1, 3)
    dilation: Any = draw.each(rank, 1, 3) if draw.chance(dilate) else 1
    stride = stride[0] if draw.chance(0.4) else stride
    plan = Windows((1,) * rank, window, stride, 0, dilation)
    most = tuple(k // 2 for k in window) if half else plan.extents
    kind = draw.pick(kinds)
    if kind == "int":
        plan.padding = draw.integer(0, min(most))
    elif kind == "each":
        plan.padding = tuple(draw.integer(0, top) for top in most)
    elif kind == "pairs":
        highest = [extent - 1 if half else 2 for extent in plan.extents]
        plan.padding = tuple((draw.integer(-1, top), draw.integer(-1, top)) for top in highest)
    elif kind == "same alone":
        plan.padding, plan.stride = "same", 1
    elif kind == "name":
        plan.padding = draw.pick(NAMES)
    plan.spatial = tuple(
        least + draw.integer(0, 2 if rank == 3 else 4) for least in least_sizes(plan, mode)
    )
    return plan


def least_sizes(plan: Windows, mode: str) -> list[int]:
    """The smallest input for which the windows fit and the mode has enough to repeat."""
    if isinstance(plan.padding, str):
        return [*plan.extents]
    least = []
    for (low, high), extent in zip(plan.pairs, plan.extents, strict=True):
        more = {"reflect": max(low, high) + 1, "circular": max(low, high) + 2}.get(mode, 1)
        least.append(max(extent - low - high, more, 1))
    return least


# Torch's side.


def functional(name: str, rank: int) -> Any:
    return getattr(torch.nn.functional, f"{name}{rank}d")


def flat_pairs(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """`torch.nn.functional.pad` counts from the last axis."""
    return [side for pair in reversed(pairs) for side in pair]


def torch_pad(x: Any, pairs: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0):
    fill = {"value": value} if mode == "constant" else {}
    return torch.nn.functional.pad(x, flat_pairs(pairs), mode=mode, **fill)


def torch_sums(x: Any, plan: Windows, pairs: Any) -> Any:
    """Sums over windows: a convolution of each channel with ones."""
    lead = x.shape[: -plan.rank]
    ones = torch.ones((1, 1, *plan.window), dtype=x.dtype)
    single = torch_pad(x.reshape(-1, 1, *x.shape[-plan.rank :]), pairs)
    total = functional("conv", plan.rank)(
        single, ones, stride=plan.strides, dilation=plan.dilations
    )
    return total.reshape(*lead, *total.shape[2:])


def torch_unfold(x: Any, plan: Windows) -> Any:
    """`torch.Tensor.unfold` along each axis, for the ranks that `functional.unfold` has not."""
    lead, rank = x.shape[: -plan.rank], plan.rank
    x = torch_pad(x, plan.pairs)
    first = len(lead)
    axes = zip(plan.extents, plan.strides, plan.dilations, strict=True)
    for axis, (extent, stride, dilation) in enumerate(axes):
        x = x.unfold(first + axis, extent, stride)[..., ::dilation]
    taps = range(first + rank, first + 2 * rank)
    x = x.permute(*range(first), *taps, *range(first, first + rank))
    return x.reshape(*lead[:-1], lead[-1] * math.prod(plan.window), math.prod(plan.sizes()))


# The functions: each draws a configuration.


def unchanged(x: np.ndarray) -> np.ndarray:
    return x


@dataclasses.dataclass
class Drawn:
    """A call before its arrays are drawn: what a change may set."""

    view: View
    batch: tuple[int, ...]
    channels: int
    plan: Windows
    dtype: Any = float
    channel_axis: bool = True
    ceil: Any = False
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: What is put into x after it is drawn.
    values: Callable[[np.ndarray], np.ndarray] = unchanged

    @property
    def shape(self) -> tuple[int, ...]:
        """The image's, in torch's form."""
        return (*self.batch, *([self.channels] if self.channel_axis else []), *self.plan.spatial)

    @property
    def options(self) -> dict[str, Any]:
        """Ours."""
        ceil = {"ceil_mode": self.ceil} if self.ceil is not False else {}
        return {**self.plan.options, **ceil, **self.extra, "layout": self.view.layout}


def draw_call(
    draw: Draw, change: Change | None, kinds: Sequence[str], *, dilate: float, half: bool = False
) -> Drawn:
    """Windows and an image. What will be changed is plain otherwise: no padding, channels first."""
    if change:
        plan = draw_windows(draw, kinds=("none",), dilate=0, half=half)
        drawn = Drawn(View(plan.rank), (2,), 2, plan)
    else:
        plan = draw_windows(draw, kinds=kinds, dilate=dilate, half=half)
        batch = draw.pick(((), (1,), (2,), (4,)))
        drawn = Drawn(draw_view(draw, plan.rank, batch), batch, draw.integer(1, 3), plan)
    return drawn


@dataclasses.dataclass
class Layer(Drawn):
    """A convolution or a transposed one. `channels` are those it reads."""

    out_channels: int = 1
    groups: Any = 1
    mode: str = "zeros"
    bias: str | None = None
    output_padding: Any = 0
    #: The kernel's dtype, where it is another one; channels that the image has and the kernel not.
    kernel_dtype: Any = None
    more: int = 0

    def arrays(self, draw: Draw, transposed: bool) -> list[np.ndarray]:
        """Image, kernel and, if there is one, bias."""
        groups = self.groups or 1
        ends = (self.out_channels, self.channels // groups)
        if transposed:
            ends = (self.channels, self.out_channels // groups)
        biases = {
            "vector": (self.out_channels,),
            "long": (self.out_channels + 1,),
            "pairs": (self.out_channels, self.channels // groups),
        }
        shapes = [(*ends, *self.plan.window), *([biases[self.bias]] if self.bias else [])]
        self.channels += self.more
        kind = self.dtype if self.kernel_dtype is None else self.kernel_dtype
        return [draw.normal(self.shape, self.dtype), *(draw.normal(at, kind) for at in shapes)]


def draw_layer(
    draw: Draw, change: Change | None, kinds: Sequence[str], mode: str = "zeros"
) -> Layer:
    if change:
        plan = draw_windows(draw, kinds=("none",), dilate=0)
        return Layer(View(plan.rank), (2,), 2, plan, out_channels=2)
    plan = draw_windows(draw, kinds=kinds, dilate=0.4, mode=mode)
    groups, batch = draw.pick((1, 1, 2, 3)), draw.pick(((), (1,), (2,), (4,)))
    layer = Layer(draw_view(draw, plan.rank, batch), batch, groups * draw.integer(1, 2), plan)
    layer.out_channels, layer.groups = groups * draw.integer(1, 2), groups
    layer.mode = mode
    layer.bias = draw.pick((None, "vector", "vector"))
    layer.dtype = complex if draw.chance(0.1) else float
    return layer


def layer_call(name: str, image: str, layer: Layer, arrays: Any, ours: Any, peer: Any) -> Call:
    view, options = layer.view, dict(layer.options)
    if name == "conv_transpose":
        options["output_padding"] = layer.output_padding
    elif layer.mode != "zeros":
        options["padding_mode"] = layer.mode
    options["groups"] = layer.groups

    def run(x: Any, w: Any, *bias: Any) -> Any:
        return view.image_back(ours(view.image(x), view.kernel(w), *bias, **options)), ()

    shown = [view.image(arrays[0]), view.kernel(arrays[1]), *arrays[2:]]
    text = write(name, dict(zip((image, "kernel", "bias"), shown, strict=False)), **options)
    return make_call(arrays, run, peer, text)


def make_call(arrays: Sequence[np.ndarray], ours: Any, peer: Any, text: str, **more: Any) -> Call:
    smooth = all(array.dtype.kind in "fc" for array in arrays)
    return Call(tuple(arrays), ours, peer, text, differentiable=smooth, **more)


def conv(draw: Draw, change: Change | None = None) -> Call:
    """`conv` and torch's function, or its module for the padding modes."""
    mode = "zeros" if change else draw.pick(("zeros",) * 6 + ("reflect", "replicate", "circular"))
    kinds = ("none", "int", "each", "each", "pairs", "same alone", "name")
    layer = draw_layer(draw, change, kinds, mode)
    if not change and draw.chance(0.15):
        layer.bias = "pairs"
    composed = layer.plan.paired
    if change:
        change(layer)
    plan, arrays = layer.plan, layer.arrays(draw, transposed=False)

    def peer(x, w, *bias):
        b = bias[0] if bias else None
        steps = {"stride": plan.stride, "dilation": plan.dilation, "groups": layer.groups}
        if b is not None and b.ndim == 2 and not change:
            b = b.sum(1)
        if composed:
            x = torch_pad(x, plan.pairs, "constant" if layer.mode == "zeros" else layer.mode)
            return functional("conv", plan.rank)(x, w, b, **steps), ()
        steps["padding"] = plan.padding
        if layer.mode == "zeros":
            return functional("conv", plan.rank)(x, w, b, **steps), ()
        module = getattr(torch.nn, f"Conv{plan.rank}d")(
            layer.channels, layer.out_channels, plan.window, bias=b is not None,
            padding_mode=layer.mode, dtype=w.dtype, **steps,
        )  # fmt: skip
        parameters = {"weight": w} if b is None else {"weight": w, "bias": b}
        return torch.func.functional_call(module, parameters, (x,)), ()

    return layer_call("conv", "x", layer, arrays, jc.conv, peer)


def conv_transpose(draw: Draw, change: Change | None = None) -> Call:
    """`conv_transpose`; torch crops pairs and names after its own transposed convolution."""
    layer = draw_layer(draw, change, ("none", "int", "each", "each", "pairs", "name"))
    plan = layer.plan
    if draw.chance(0.5) and not change:
        tops = [max(s, d) - 1 for s, d in zip(plan.strides, plan.dilations, strict=True)]
        layer.output_padding = tuple(draw.integer(0, top) for top in tops)
    axes = zip(transposed_pairs(plan), plan.extents, plan.strides, strict=True)
    plan.spatial = tuple(
        max(1, -(-(low + high - extent + 1) // s) + 1) + draw.integer(0, 2)
        for (low, high), extent, s in axes
    )
    composed = plan.paired or isinstance(plan.padding, str)
    if change:
        change(layer)
    plan, arrays = layer.plan, layer.arrays(draw, transposed=True)

    def peer(y, w, *bias):
        run, b = functional("conv_transpose", plan.rank), bias[0] if bias else None
        steps = {"stride": plan.stride, "dilation": plan.dilation, "groups": layer.groups}
        steps["output_padding"] = layer.output_padding
        if not composed:
            return run(y, w, b, padding=plan.padding, **steps), ()
        x = torch_pad(run(y, w, None, **steps), [(-p, -q) for p, q in transposed_pairs(plan)])
        return x if b is None else x + b.reshape(-1, *[1] * plan.rank), ()

    return layer_call("conv_transpose", "y", layer, arrays, jc.conv_transpose, peer)


def transposed_pairs(plan: Windows) -> tuple[tuple[int, int], ...]:
    """What a transposed convolution crops; "same" gives n * stride elements, with zeros at the end
    where the stride exceeds the window."""
    if plan.padding not in ("same", "same_lower"):
        return plan.pairs
    found = []
    for extent, s in zip(plan.extents, plan.strides, strict=True):
        less, more = (extent - s) // 2, extent - s - (extent - s) // 2
        pair = (less, more) if plan.padding == "same" else (more, less)
        found.append((0, extent - s) if extent < s else pair)
    return tuple(found)


# Pools.


def draw_pool(draw: Draw, change: Change | None, dilate: float) -> Drawn:
    kinds = ("none", "int", "each", "each", "each", "pairs", "name")
    pool = draw_call(draw, change, kinds, dilate=dilate, half=True)
    if draw.chance(0.3):
        pool.plan.stride = None
    if not (change or pool.plan.paired or isinstance(pool.plan.padding, str)):
        pool.ceil = draw.chance(0.4)
    return pool


def hold_something(pool: Drawn) -> None:
    """Enlarge the input until every window holds an element of it."""
    while not pool.plan.all_hold(pool.ceil):
        pool.plan.spatial = tuple(n + 1 for n in pool.plan.spatial)


def with_ties(draw: Draw, x: np.ndarray) -> np.ndarray:
    """Sometimes small whole numbers, of which many are equal."""
    return np.rint(x) if draw.chance(0.4) and x.dtype.kind == "f" else x


def viewed(view: View, result: Any, indices: bool) -> Any:
    """A pool's result, with or without indices, as torch has it."""
    y, *exact = result if indices else (result,)
    return view.image_back(y), tuple(view.image_back(index) for index in exact)


def max_pool(draw: Draw, change: Change | None = None) -> Call:
    """`max_pool`, mostly with indices."""
    return _max_pool(draw, change, "max_pool", draw.chance(0.7))


def min_pool(draw: Draw, change: Change | None = None) -> Call:
    """`min_pool`, in torch the negative of the maximum of negatives."""
    return _max_pool(draw, change, "min_pool", False)


def _max_pool(draw: Draw, change: Change | None, name: str, indices: bool) -> Call:
    pool = draw_pool(draw, change, 0.4)
    composed = pool.plan.paired or isinstance(pool.plan.padding, str)
    if change:
        change(pool)
    elif not composed:
        hold_something(pool)
    plan, view = pool.plan, pool.view
    x = pool.values(with_ties(draw, draw.normal(pool.shape, pool.dtype)))
    options = pool.options | ({"return_indices": True} if indices else {})
    turn: Any = operator.neg if name == "min_pool" else operator.pos

    def ours(x):
        return viewed(view, getattr(jc, name)(view.image(x), plan.window, **options), indices)

    def peer(x):
        steps = {"stride": plan.stride, "dilation": plan.dilation, "ceil_mode": pool.ceil}
        run = functional("max_pool", plan.rank)
        if composed:
            padded = torch_pad(turn(x), plan.pairs, value=-math.inf)
            y, index = run(padded, plan.window, return_indices=True, **steps)
            index = unpadded(index, y, plan)
        else:
            steps["padding"] = plan.padding
            y, index = run(turn(x), plan.window, return_indices=True, **steps)
        return turn(y), (index,) if indices else ()

    text = write(name, {"x": view.image(x)}, window=plan.window, **options)
    return make_call([x], ours, peer, text)


def unpadded(index: Any, y: Any, plan: Windows) -> Any:
    """Positions in the padded plane as those in the plane; -1 where a window holds nothing."""
    flat, rest, pitch = torch.zeros_like(index), index, 1
    for n, (low, high) in zip(plan.spatial[::-1], plan.pairs[::-1], strict=True):
        flat = flat + (rest % (n + low + high) - low) * pitch
        rest, pitch = rest // (n + low + high), pitch * n
    return torch.where(torch.isneginf(y), -1, flat)


def avg_pool(draw: Draw, change: Change | None = None) -> Call:
    """`avg_pool`; torch adds up ones where it has no form for padding or dilation."""
    pool = draw_pool(draw, change, 0.25)
    plan = pool.plan
    composed = plan.paired or isinstance(plan.padding, str) or plan.dilation != 1
    pool.ceil = pool.ceil and not composed
    if plan.rank == 3 and not composed:  # torch's takes no window larger than what is not padded
        plan.spatial = tuple(max(n, k) for n, k in zip(plan.spatial, plan.window, strict=True))
    if draw.chance(0.5):
        pool.extra["count_include_pad"] = draw.chance(0.5)
    if (plan.rank > 1 or composed) and draw.chance(0.3):
        pool.extra["divisor_override"] = draw.pick((1, 3, 5, -2))
    hold_something(pool)
    if change:
        change(pool)
    plan, view, options = pool.plan, pool.view, pool.options
    x = draw.normal(pool.shape, pool.dtype)

    def ours(x):
        return view.image_back(jc.avg_pool(view.image(x), plan.window, **options)), ()

    def peer(x):
        if not composed:
            steps = {"stride": plan.stride, "padding": plan.padding, "ceil_mode": pool.ceil}
            return functional("avg_pool", plan.rank)(x, plan.window, **steps, **pool.extra), ()
        divisor = pool.extra.get("divisor_override")
        if divisor is None:
            include = pool.extra.get("count_include_pad", True)
            ones = torch.ones((1, *plan.spatial), dtype=x.dtype)
            counted = torch_pad(ones, plan.pairs, value=1 if include else 0)
            divisor = torch_sums(counted, plan, ((0, 0),) * plan.rank)
        return torch_sums(x, plan, plan.pairs) / divisor, ()

    text = write("avg_pool", {"x": view.image(x)}, window=plan.window, **options)
    return make_call([x], ours, peer, text)


def lp_pool(draw: Draw, change: Change | None = None) -> Call:
    """`lp_pool`: torch's where the two are the same function, else its sums of magnitudes.

    Torch leaves out the magnitude, so that only even p or positive numbers compare, and rescales
    the partial windows of ceil mode; it has no padding and no dilation.
    """
    pool = draw_pool(draw, change, 0.25)
    plan = pool.plan
    if draw.chance(0.5) and not change:
        plan.padding, plan.dilation, pool.ceil = 0, 1, draw.chance(0.5)
        plan.spatial = tuple(max(n, k) for n, k in zip(plan.spatial, plan.window, strict=True))
    hold_something(pool)
    pool.extra = {"p": draw.pick((1, 1.5, 2, 2.0, 3, 4)), "signs": not change and draw.chance(0.5)}
    if change:
        change(pool)
    plan, view = pool.plan, pool.view
    extra, pool.extra = pool.extra, {}
    p, signs = extra["p"], extra.get("signs", False)
    scale = extra.get("scale", 1 if pool.dtype in (float, complex) else 4)
    # Away from 0, where there is no second derivative.
    x = scale * draw.rng.uniform(0.3, 1.5, pool.shape)
    x = (x * draw.pick_each((-1, 1), pool.shape) if signs else x).astype(pool.dtype)
    options = pool.options
    plain = (plan.padding, plan.dilation) == (0, 1) and (p in (2, 4) or not signs)
    direct = bool(change) or (plain and (not pool.ceil or plan.sizes() == plan.sizes(ceil=True)))

    def ours(x):
        return view.image_back(jc.lp_pool(view.image(x), plan.window, p, **options)), ()

    def peer(x):
        if direct:
            run, window = functional("lp_pool", plan.rank), plan.window
            window = window if plan.rank > 1 else window[0]  # torch's 1-D one takes an int alone
            return run(x, p, window, stride=plan.stride, ceil_mode=pool.ceil), ()
        return torch_sums(x.abs() ** p, plan, reached(plan, pool.ceil)) ** (1 / p), ()

    text = write("lp_pool", {"x": view.image(x)}, window=plan.window, p=p, **options)
    return make_call([x], ours, peer, text)


def reached(plan: Windows, ceil: bool) -> list[tuple[int, int]]:
    """The padding with what the last windows of ceil mode reach beyond it."""
    axes = zip(plan.sizes(ceil), plan.spatial, plan.extents, plan.strides, plan.pairs, strict=True)
    return [
        (low, max(high, (count - 1) * s + extent - n - low) if ceil else high)
        for count, n, extent, s, (low, high) in axes
    ]


def adaptive_avg_pool(draw: Draw, change: Change | None = None) -> Call:
    """`adaptive_avg_pool`."""
    return _adaptive(draw, change, "adaptive_avg_pool", False)


def adaptive_max_pool(draw: Draw, change: Change | None = None) -> Call:
    """`adaptive_max_pool`, mostly with indices."""
    return _adaptive(draw, change, "adaptive_max_pool", draw.chance(0.7))


def _adaptive(draw: Draw, change: Change | None, name: str, indices: bool) -> Call:
    rank = draw.pick((1, 2, 2, 3))
    spatial = draw.each(rank, 1, {1: 9, 2: 6, 3: 4}[rank])
    batch = (2,) if change else draw.pick(((), (1,), (2,), (4,)))
    view = View(rank) if change else draw_view(draw, rank, batch)
    pool = Drawn(view, batch, draw.integer(1, 3), Windows(spatial, (1,) * rank))
    sizes = [draw.integer(1, n + 2 if draw.chance(0.3) else n) for n in spatial]
    pool.extra["output"] = tuple(m if change or draw.chance(0.85) else None for m in sizes)
    if change:
        change(pool)
    output = pool.extra["output"]
    x = pool.values(with_ties(draw, draw.normal(pool.shape, pool.dtype)))
    options = {"layout": view.layout} | ({"return_indices": True} if indices else {})

    def ours(x):
        return viewed(view, getattr(jc, name)(view.image(x), output, **options), indices)

    def peer(x):
        sizes = output
        if rank == 1 and not change:  # torch keeps an axis in 2 and 3 dimensions only
            sizes = tuple(n if m is None else m for m, n in zip(output, spatial, strict=True))
        got = functional(name, rank)(x, sizes, **({"return_indices": True} if indices else {}))
        return (got[0], (got[1],)) if indices else (got, ())

    text = write(name, {"x": view.image(x)}, output_shape=output, **options)
    return make_call([x], ours, peer, text)


def max_unpool(draw: Draw, change: Change | None = None) -> Call:
    """`max_unpool` of what a max-pool without overlaps may have given."""
    rank = draw.pick((1, 2, 2, 3))
    window = draw.each(rank, 1, 3)
    stride = tuple(k + draw.integer(0, 1) for k in window)
    sizes = draw.each(rank, 1, 2 if rank == 3 else 3)
    axes = zip(sizes, stride, window, strict=True)
    spatial = tuple((m - 1) * s + k + draw.integer(0, s - 1) for m, s, k in axes)
    batch = (2,) if change else draw.pick(((), (1,), (2,), (4,)))
    view = View(rank) if change else draw_view(draw, rank, batch)
    drawn = Drawn(view, batch, draw.integer(1, 3), Windows(sizes, window, stride))
    drawn.extra["output"] = spatial
    if change:
        change(drawn)
    plan, output, y = drawn.plan, drawn.extra["output"], draw.normal(drawn.shape, drawn.dtype)
    indices = pooled_positions(draw, drawn.shape, spatial, plan)
    indices = drawn.extra.get("indices", lambda given: given)(indices)

    def ours(y):
        positions = view.image(indices.astype(np.int32))
        return view.image_back(
            jc.max_unpool(view.image(y), positions, output, layout=view.layout)
        ), ()

    def peer(y):
        run, at = functional("max_unpool", rank), torch.tensor(indices)
        return run(y, at, plan.window, stride=plan.stride, output_size=output), ()

    shown = {"y": view.image(y), "indices": view.image(indices)}
    text = write("max_unpool", shown, output_shape=output, layout=view.layout)
    return make_call([y], ours, peer, text)


def pooled_positions(
    draw: Draw, shape: tuple[int, ...], spatial: tuple[int, ...], plan: Windows
) -> np.ndarray:
    """Where the winners of windows that do not overlap may be: any tap of each window."""
    flat, first = np.zeros(shape, np.int64), len(shape) - plan.rank
    for axis, (n, k, s) in enumerate(zip(spatial, plan.window, plan.strides, strict=True)):
        starts = np.arange(shape[first + axis]) * s
        along = starts.reshape([-1 if at == first + axis else 1 for at in range(len(shape))])
        flat = flat * n + along + draw.rng.integers(0, k, shape)
    return flat


# Columns.

COLUMN_PADDINGS = ("none", "int", "each", "each", "pairs", "name")


def draw_columns(draw: Draw, change: Change | None) -> Drawn:
    if change:  # torch's functions are for two spatial axes alone
        plan = draw_windows(draw, kinds=("none",), dilate=0, rank=2)
        drawn = Drawn(View(2), (2,), 2, plan)
        change(drawn)
        return drawn
    drawn = draw_call(draw, change, COLUMN_PADDINGS, dilate=0.4)
    drawn.dtype = complex if draw.chance(0.1) else float
    return drawn


def unfold(draw: Draw, change: Change | None = None) -> Call:
    """`unfold`: torch's for one and two axes, its tensors' method for three."""
    drawn = draw_columns(draw, change)
    plan, view, taps = drawn.plan, drawn.view, math.prod(drawn.plan.window)
    x, options = draw.normal(drawn.shape, drawn.dtype), drawn.options

    def ours(x):
        return view.columns_back(jc.unfold(view.image(x), plan.window, **options), taps), ()

    def peer(x):
        run = torch.nn.functional.unfold
        if change:
            return run(x, plan.window, **plan.options), ()
        if plan.rank == 3 or isinstance(plan.padding, str) or (plan.paired and plan.rank == 1):
            return torch_unfold(x, plan), ()
        if plan.rank == 1:
            return run(x.unsqueeze(-2), **beside(plan)), ()
        steps = {"stride": plan.stride, "dilation": plan.dilation}
        if plan.paired:
            return run(torch_pad(x, plan.pairs), plan.window, **steps), ()
        return run(x, plan.window, padding=plan.padding, **steps), ()

    text = write("unfold", {"x": view.image(x)}, window=plan.window, **options)
    return make_call([x], ours, peer, text)


def beside(plan: Windows) -> dict[str, Any]:
    """One axis as the second of two, of which the first has size 1."""
    first = {"stride": 1, "padding": 0, "dilation": 1}
    two = {key: (first[key], *per_axis(value, 1)) for key, value in plan.options.items()}
    return {"kernel_size": (1, *plan.window), **two}


def fold(draw: Draw, change: Change | None = None) -> Call:
    """`fold`: torch's for one and two axes, for three the transpose of its unfolding."""
    drawn = draw_columns(draw, change)
    plan, view, taps = drawn.plan, drawn.view, math.prod(drawn.plan.window)
    extra, drawn.extra = drawn.extra, {}
    rows = drawn.channels * taps + extra.get("rows", 0)
    length = extra.get("length", 0) + places(plan)
    columns = draw.normal((*drawn.batch, rows, length), drawn.dtype)
    options = drawn.options

    def ours(columns):
        shown = view.columns(columns, taps)
        return view.image_back(jc.fold(shown, plan.spatial, plan.window, **options)), ()

    def peer(columns):
        run = torch.nn.functional.fold
        if change:
            return run(columns, plan.spatial, plan.window, **plan.options), ()
        if plan.rank == 1 and not (plan.paired or isinstance(plan.padding, str)):
            return run(columns, (1, *plan.spatial), **beside(plan)).squeeze(-2), ()
        if plan.rank == 2 and not isinstance(plan.padding, str):
            steps = {"stride": plan.stride, "dilation": plan.dilation}
            if not plan.paired:
                return run(columns, plan.spatial, plan.window, padding=plan.padding, **steps), ()
            padded = [n + p + q for n, (p, q) in zip(plan.spatial, plan.pairs, strict=True)]
            back = [(-p, -q) for p, q in plan.pairs]
            return torch_pad(run(columns, padded, plan.window, **steps), back), ()
        # The derivative of unfolding, which is linear, at any image.
        zero = torch.zeros(drawn.shape, dtype=columns.dtype, requires_grad=True)
        (x,) = torch.autograd.grad(torch_unfold(zero, plan), zero, columns, create_graph=True)
        return x, ()

    shown = {"columns": view.columns(columns, taps)}
    text = write("fold", shown, output_shape=plan.spatial, window=plan.window, **options)
    return make_call([columns], ours, peer, text)


def places(plan: Windows) -> int:
    """The number of windows; 1 where a change has left options that say nothing of it."""
    try:
        return max(int(math.prod(plan.sizes())), 0)
    except (ValueError, KeyError, ZeroDivisionError):
        return 1


# scipy's functions.


@dataclasses.dataclass
class Signal:
    """Two arrays to correlate or convolve, before they are drawn: what a change may set."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    mode: Any
    dtypes: tuple[Any, Any]


def correlate(draw: Draw, change: Change | None = None) -> Call:
    """`correlate`."""
    return _signal(draw, change, "correlate")


def convolve(draw: Draw, change: Change | None = None) -> Call:
    """`convolve`."""
    return _signal(draw, change, "convolve")


FLOATS = ((float, float),) * 3 + ((complex, complex), (complex, float), (float, complex))
INTEGERS = ((np.int64, np.int64), (np.int32, np.int32), (np.int16, np.int16), (np.int8, np.int8))


def _signal(draw: Draw, change: Change | None, name: str) -> Call:
    rank = draw.pick((1, 1, 2, 2, 3))
    small = draw.each(rank, 1, 3 if rank > 1 else 5)
    large = tuple(m + draw.integer(0, 3 if rank < 3 else 2) for m in small)
    shapes = (large, small) if draw.chance(0.6) else (small, large)
    mode = draw.pick(("full", "same", "valid"))
    if mode != "valid" and draw.chance(0.3):
        shapes = (draw.each(rank, 1, 4), draw.each(rank, 1, 4))
    signal = Signal(shapes, mode, draw.pick(INTEGERS if draw.chance(0.25) else FLOATS))
    if change:
        change(signal)
    x, k = (draw.normal(at, kind) for at, kind in zip(signal.shapes, signal.dtypes, strict=True))
    if x.dtype.kind == k.dtype.kind == "i" and draw.chance(0.5):  # with overflow
        x, k = x << (4 * x.itemsize), k << (4 * k.itemsize - 2)

    def ours(x, k):
        return getattr(jc, name)(x, k, signal.mode), ()

    def peer(x, k):
        return getattr(scipy.signal, name)(x, k, signal.mode, method="direct"), ()

    text = write(name, {"x": x, "k": k}, mode=signal.mode)
    return make_call([x, k], ours, peer, text, scipy=True)


#: Generators, and how large a share of the configurations each gets.
FUNCTIONS: dict[str, tuple[Callable[[Draw, Change | None], Call], int]] = {
    "conv": (conv, 3),
    "conv_transpose": (conv_transpose, 2),
    "max_pool": (max_pool, 2),
    "min_pool": (min_pool, 1),
    "avg_pool": (avg_pool, 1),
    "lp_pool": (lp_pool, 1),
    "adaptive_avg_pool": (adaptive_avg_pool, 1),
    "adaptive_max_pool": (adaptive_max_pool, 1),
    "max_unpool": (max_unpool, 1),
    "unfold": (unfold, 1),
    "fold": (fold, 1),
    "correlate": (correlate, 1),
    "convolve": (convolve, 1),
}
