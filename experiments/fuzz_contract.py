"""What the public contract says of a call: its faults, or its answer in NumPy.

The other side of `fuzz.py`, which holds jaxconv against this. Written from the contract's sentences
and the docstrings' decisions, one function for each public one, under its name and with its
arguments; shares no code with jaxconv. Slow where it may be: everything is a loop over the taps of
a window. Nothing here draws calls or knows how jaxconv's answers are obtained.

A call may have several faults, and which one is reported first is free. So all that can be read is
read, and faults are collected: each an error type, and the arguments that may be blamed.
"""

# What could not be read is None and ends the reading at `need`, which pyright cannot follow; nor
# can it count the arguments in a starred tuple.
# pyright: reportOptionalMemberAccess=false, reportOptionalIterable=false
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportCallIssue=false

import array as arrays
import collections
import functools
import itertools
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 2**31 - 1  # of any int that is given
ENDLESS = 2**59  # elements; what asks for more is refused
MILLION = 2**20
WORK = 2**18  # products that are computed here; calls between these two are not judged

PADDINGS = ("valid", "same", "same_lower", "full", "causal")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
LAYOUTS = ("NCW", "NWC", "NCHW", "NHWC", "NCDHW", "NDHWC")
NUMBERS = {
    "bfloat16", "float16", "float32", "float64", "complex64", "complex128", "int8", "int16",
    "int32", "int64", "uint8", "uint16", "uint32", "uint64",
}  # fmt: skip
#: Single and double precision, and what sums of half precision are kept in here.
WIDE = {"i": np.int64, "u": np.uint64, "f": np.float64, "c": np.complex128}


class UndecidedError(Exception):
    """Nothing can be said: too large to be computed here, or left open by the contract."""


class Fault(NamedTuple):
    """Why a call must be refused."""

    error: type[Exception]
    names: tuple[str, ...]  # the arguments, any of which the message may begin with


class Verdict(NamedTuple):
    """What must come of a call: one of the faults if there are any, else the answer."""

    faults: frozenset[Fault]
    allowed: frozenset[Fault]  # refusals that the contract leaves open
    answer: Any = None  # arrays with the dtype that is due; for geometry tuples of ints


class _StopReadingError(Exception):
    """What was read does not suffice to read on."""


def contract(name: str, args: Sequence[Any], options: dict[str, Any], traced: bool) -> Verdict:
    """The verdict on a call; `traced`: under jit, where the values of arrays are not known.

    Raises:
        UndecidedError: for calls that nothing can be said about.
    """
    reading = Reading(traced)
    answer = None
    try:
        with np.errstate(all="ignore"):
            answer = FUNCTIONS[name](reading, *args, **options)
    except _StopReadingError:
        pass
    if answer is None and not reading.faults:
        raise RuntimeError("the contract has no answer and no fault")
    return Verdict(frozenset(reading.faults), frozenset(reading.allowed), answer)


# Reading arguments.


class Order(NamedTuple):
    """Where the axes of images and kernels are."""

    rank: int
    last: bool

    def spatial(self, shape: Any) -> tuple[int, ...]:
        """The spatial sizes of an image."""
        return tuple(shape[-self.rank - 1 : -1] if self.last else shape[-self.rank :])

    def channels(self, shape: Any) -> int:
        """The number of channels of an image."""
        return shape[-1] if self.last else shape[-self.rank - 1]

    def batch(self, shape: Any) -> tuple[int, ...]:
        """The batch axes of an image."""
        return tuple(shape[: -self.rank - 1])

    def kernel(self, shape: Any) -> tuple[int, int, tuple[int, ...]]:
        """Output channels, input channels of a group, window."""
        if self.last:
            return shape[-1], shape[-2], tuple(shape[:-2])
        return shape[0], shape[1], tuple(shape[2:])

    def planes(self, image: np.ndarray) -> np.ndarray:
        """`(n, c, *spatial)`."""
        image = np.moveaxis(image, -1, -self.rank - 1) if self.last else image
        rest = image.shape[-self.rank - 1 :]
        return image.reshape(math.prod(image.shape[: -self.rank - 1]), *rest)

    def image(self, planes: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
        """`(n, c, *spatial)` as an image."""
        image = planes.reshape(*batch, *planes.shape[1:])
        return np.moveaxis(image, -self.rank - 1, -1) if self.last else image

    def kernel_first(self, kernel: np.ndarray) -> np.ndarray:
        """`(c_o, c_i, *window)`."""
        return np.moveaxis(kernel, (-1, -2), (0, 1)) if self.last else kernel

    def kernel_back(self, kernel: np.ndarray) -> np.ndarray:
        """`(c_o, c_i, *window)` as a kernel."""
        return np.moveaxis(kernel, (0, 1), (-1, -2)) if self.last else kernel


class Axis(NamedTuple):
    """One spatial axis: the position `reads[i, a]` in x of tap a of window i; n stands for none."""

    n: int
    reads: np.ndarray
    counted: np.ndarray  # how many taps of each window lie in x or in its explicit padding


class Reading:
    """Arguments as they are read, and the faults found on the way. What cannot be read is None."""

    def __init__(self, traced: bool) -> None:
        self.traced = traced
        self.faults: set[Fault] = set()
        self.allowed: set[Fault] = set()

    def fault(self, error: type[Exception], *names: str) -> Any:
        """Note a fault; None, for what could not be read."""
        self.faults.add(Fault(error, names))

    def need(self, *values: Any) -> None:
        """To read on, these must have been read."""
        if any(value is None for value in values):
            raise _StopReadingError

    def sound(self) -> None:
        """To compute, nothing may be at fault."""
        if self.faults:
            raise _StopReadingError

    def fits(self, shape: Iterable[int], *names: str, work: int = 1) -> None:
        """Results of more elements than 63 bits count the bytes of are refused; what is less, but
        more than is computed here, is not judged."""
        shape = tuple(shape)
        if math.prod(shape) > ENDLESS:
            self.fault(ValueError, *names)
            raise _StopReadingError
        if max(math.prod(shape), *shape, 0) * work > WORK:
            self.sound()
            raise UndecidedError

    def array(self, name: str, value: Any, kinds: str = "iufc") -> Any:
        """An array of numbers of these kinds."""
        if isinstance(value, np.ma.MaskedArray):
            return self.fault(TypeError, name)
        if not isinstance(value, (np.ndarray, jax.Array)):
            if not hasattr(value, "__jax_array__"):
                return self.fault(TypeError, name)
            value = value.__jax_array__()
        dtype = value.dtype
        known = isinstance(dtype, np.dtype) and dtype.name in NUMBERS and dtype.isnative
        return value if known and kind(dtype) in kinds else self.fault(TypeError, name)

    def integer(self, name: str, value: Any, least: int | None = None) -> Any:
        """What Python takes for an index; bools are none."""
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError
            value = operator.index(value)
        except TypeError:
            return self.fault(TypeError, name)
        if abs(value) > LARGEST or (least is not None and value < least):
            return self.fault(ValueError, name)
        return value

    def sequence(self, name: str, value: Any) -> Any:
        """A tuple of what is in order and can be counted."""
        plain = (list, tuple, range, collections.deque, arrays.array)
        array = isinstance(value, (np.ndarray, jax.Array)) and value.ndim > 0
        return tuple(value) if array or isinstance(value, plain) else self.fault(TypeError, name)

    def _integers(self, name: str, items: Any, least: int | None) -> Any:
        found = tuple([self.integer(name, item, least) for item in items])
        return None if None in found else found

    def shape(self, name: str, value: Any) -> Any:
        """Any number of ints from 0 on."""
        items = self.sequence(name, value)
        return None if items is None else self._integers(name, items, 0)

    def sizes(self, name: str, value: Any, least: int = 0) -> Any:
        """One to three ints."""
        items = self.sequence(name, value)
        if items is not None and not 1 <= len(items) <= 3:
            return self.fault(ValueError, name)
        return None if items is None else self._integers(name, items, least)

    def per_axis(self, name: str, value: Any, rank: int | None, least: int | None = 1) -> Any:
        """An int for all axes, or one for each."""
        if rank is None:
            return None
        if _is_sequence(value):
            if len(value) != rank:
                return self.fault(ValueError, name)
            return self._integers(name, tuple(value), least)
        found = self.integer(name, value, least)
        return None if found is None else (found,) * rank

    def padding(self, value: Any, rank: int | None, name: str = "padding") -> Any:
        """A lower-case name, or a (low, high) pair for each axis."""
        if rank is None:
            return None
        if isinstance(value, str):
            return self.choice(name, value.lower(), PADDINGS)
        if not _is_sequence(value):
            both = self.integer(name, value)
            return None if both is None else ((both, both),) * rank
        if len(value) != rank:
            return self.fault(ValueError, name)
        if not any(_is_many(item) for item in value):
            both = self._integers(name, tuple(value), None)
            return None if both is None else tuple((side, side) for side in both)
        pairs = []
        for item in value:
            pair = self.sequence(name, item)
            if pair is not None and len(pair) != 2:
                pair = self.fault(ValueError, name)
            pairs.append(None if pair is None else self._integers(name, pair, None))
        return None if None in pairs else tuple(pairs)

    def choice(self, name: str, value: Any, options: Sequence[str]) -> Any:
        """One of these strings."""
        if not isinstance(value, str):
            return self.fault(TypeError, name)
        return value if value in options else self.fault(ValueError, name)

    def flag(self, name: str, value: Any) -> Any:
        """True or False; NumPy's may be refused."""
        if isinstance(value, np.bool_):
            self.allowed.add(Fault(TypeError, (name,)))
            return bool(value)
        return value if isinstance(value, bool) else self.fault(TypeError, name)

    def order(self, layout: Any, rank: int | None, source: str) -> Any:
        """The layout for the rank that `source` has."""
        if rank is not None and not 1 <= rank <= 3:
            self.fault(ValueError, source)
        if layout is not None:
            layout = self.choice("layout", layout, LAYOUTS)
            self.need(layout)
        if rank is None or not 1 <= rank <= 3:
            return None
        if layout is not None and len(layout) != rank + 2:
            return self.fault(ValueError, "layout", source)
        return Order(rank, layout is not None and layout[-1] == "C")

    def image(self, name: str, shape: Any, order: Order) -> None:
        """Whether an image of this shape has all the axes it needs."""
        if len(shape) < order.rank + 1:
            self.fault(ValueError, name)
            raise _StopReadingError

    def numerics(self, precision: Any, preferred: Any, algorithm: Any, *operands: Any) -> Any:
        """The dtype of the result, for `operands` that have been read."""
        self._precision(precision)
        self.choice("algorithm", algorithm, ("auto", "direct"))
        if preferred is not None:
            try:
                if not isinstance(preferred, (str, type, np.dtype)):
                    raise TypeError
                preferred = np.dtype(preferred)
            except (TypeError, ValueError, SyntaxError):
                return self.fault(TypeError, "preferred_element_type")
        if any(operand is None for operand in operands):
            return None
        promoted = promote(*operands)
        if preferred is None:
            return promoted
        if not preferred.isnative or preferred.name not in NUMBERS:
            return self.fault(TypeError, "preferred_element_type")
        wanted = np.dtype(jax.dtypes.canonicalize_dtype(preferred))
        widens = kind(promoted) in "iu" and kind(wanted) == "f"
        if (kind(promoted) != kind(wanted) and not widens) or wanted.itemsize < promoted.itemsize:
            return self.fault(TypeError, "preferred_element_type")
        return wanted

    def _precision(self, value: Any) -> None:
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        if len(pair) != 2:
            return self.fault(ValueError, "precision")
        for item in pair:
            if not (item is None or isinstance(item, (str, jax.lax.Precision))):
                self.fault(TypeError, "precision")
            elif isinstance(item, str):
                try:
                    jax.lax.Precision(item)
                except ValueError:
                    self.fault(ValueError, "precision")
        return None


def _is_sequence(value: Any) -> bool:
    return Reading(False).sequence("", value) is not None


def _is_many(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


# Numbers.


def kind(dtype: Any) -> str:
    """One of i, u, f, c; bfloat16 is a float here, though not for NumPy."""
    return np.dtype(dtype).kind.replace("V", "f")


def promote(*operands: Any) -> np.dtype:
    """The contract's promotion is that of `jax.numpy`."""
    return np.dtype(jnp.result_type(*operands))


def default_float() -> np.dtype:
    return np.dtype(jnp.result_type(float))


def floating(dtype: np.dtype) -> np.dtype:
    """What means come in: integers give the default float."""
    return default_float() if kind(dtype) in "iu" else dtype


def wide(value: Any, dtype: np.dtype, result: np.dtype | None = None) -> np.ndarray:
    """A copy, rounded to `dtype` and held in what the result is computed in.

    64 bits of integers wrap as fewer do, once they are cut; float64 holds what float32 sums exactly
    for the small integers that are drawn.
    """
    return np.asarray(value).astype(dtype).astype(WIDE[kind(dtype if result is None else result)])


# Windows.


def sides(padding: Any, n: Any, k: Any, s: Any, d: Any) -> list[tuple[int, int]]:
    """(low, high) of each axis."""
    if not isinstance(padding, str):
        return list(padding)
    found = []
    for size, taps, step, spread in zip(n, k, s, d, strict=True):
        reach = spread * (taps - 1)
        total = max((-(-size // step) - 1) * step + reach + 1 - size, 0)
        less, more = total // 2, total - total // 2
        found.append(
            {
                "valid": (0, 0),
                "same": (less, more),
                "same_lower": (more, less),
                "full": (reach, reach),
                "causal": (reach, 0),
            }[padding]
        )
    return found


def output_size(n: int, k: int, s: int, d: int, low: int, high: int, ceil: bool = False) -> int:
    """The number of windows; below 1 when none fits."""
    room = n + low + high - d * (k - 1) - 1
    if not ceil:
        return room // s + 1
    count = -(-room // s) + 1
    # The last one must start in x or in the low padding.
    return count - 1 if (count - 1) * s >= n + low + min(high, 0) else count


def mode_limit(mode: str, n: int, low: int, high: int) -> float:
    """The largest padding that a mode has something to fill with."""
    left = n + min(low, 0) + min(high, 0)
    limits = {"zeros": math.inf, "reflect": n - 1, "replicate": math.inf if n else 0}
    return max({**limits, "circular": left}[mode], 0)


def axis_reads(
    n: int, count: int, k: int, s: int, d: int, low: int, high: int, mode: str = "zeros"
) -> Axis:
    at = np.arange(count)[:, None] * s + np.arange(k) * d - low
    counted = ((at >= -low) & (at < n + high)).sum(axis=1)
    begin, end = max(0, -low), min(n, n + high)
    if mode == "replicate":
        at = np.clip(at, 0, n - 1)
    elif mode == "reflect":
        at = np.abs(at)
        at = np.where(at < n, at, 2 * (n - 1) - at)
    elif mode == "circular":
        at = begin + (at - begin) % max(end - begin, 1)
    begin, end = (begin, end) if mode == "zeros" else (0, n)
    return Axis(n, np.where((at >= begin) & (at < end), at, n), counted)


def window_axes(
    r: Reading,
    spatial,
    window,
    stride,
    padding,
    dilation,
    names,
    rows,
    *,
    mode="zeros",
    ceil=False,
) -> list[Axis]:
    """The axes of a call whose arguments are read, for `rows` results in each of their places;
    `names` may be blamed if no window fits."""
    pairs = sides(padding, spatial, window, stride, dilation)
    per_axis = list(zip(spatial, window, stride, dilation, pairs, strict=True))
    counts = [output_size(n, k, s, d, *pair, ceil) for n, k, s, d, pair in per_axis]
    blamed = ("padding", "stride", "dilation", *names)
    reaches = [(d * (k - 1), 0) for k, d in zip(window, dilation, strict=True)]
    _allow_refusal(r, [*pairs, *(reaches if ceil else ())], blamed)
    if min(counts) < 1:
        r.fault(ValueError, *blamed)
    if any(max(*pair, 0) > mode_limit(mode, n, *pair) for n, _, _, _, pair in per_axis):
        r.fault(ValueError, "padding_mode", *blamed)
        raise _StopReadingError
    if min(counts) < 1:
        raise _StopReadingError
    r.fits((rows, *counts), *blamed, work=math.prod(window))
    return [
        axis_reads(n, count, k, s, d, *pair, mode)
        for count, (n, k, s, d, pair) in zip(counts, per_axis, strict=True)
    ]


def _allow_refusal(r: Reading, pairs: Any, blamed: tuple[str, ...]) -> None:
    """Of paddings by more than a million elements, and of what ceil mode adds to fit a window of
    so many, nothing but a wrong answer is wrong."""
    if max(abs(side) for pair in pairs for side in pair) > MILLION:
        r.allowed.add(Fault(ValueError, blamed))


def grown(image: np.ndarray, rank: int) -> np.ndarray:
    """With one more element on each spatial axis: what taps outside of x read."""
    return np.pad(image, [(0, 0)] * (image.ndim - rank) + [(0, 1)] * rank)


def taps(axes: list[Axis]) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Each tap of the windows in row-major order: its index, what all windows read there (an index
    for grown images), and which of them read an element of x."""
    for tap in itertools.product(*(range(axis.reads.shape[1]) for axis in axes)):
        at = [axis.reads[:, a] for axis, a in zip(axes, tap, strict=True)]
        inside = [reads < axis.n for reads, axis in zip(at, axes, strict=True)]
        yield (..., *tap), (..., *np.ix_(*at)), functools.reduce(np.logical_and.outer, inside)


def outputs(axes: list[Axis]) -> tuple[int, ...]:
    return tuple(len(axis.reads) for axis in axes)


# Convolutions.


def conv_output(x: np.ndarray, w: np.ndarray, axes: list[Axis], groups: int) -> np.ndarray:
    """`(n, c_i, *spatial), (c_o, c_i/g, *window) -> (n, c_o, *output)`."""
    n, c_o = len(x), len(w)
    x = grown(x, len(axes))
    x = x.reshape(n, groups, x.shape[1] // groups, *x.shape[2:])
    w = w.reshape(groups, c_o // groups, *w.shape[1:])
    y = np.zeros((n, groups, c_o // groups, *outputs(axes)), x.dtype)
    for tap, at, inside in taps(axes):
        y += np.where(inside, np.einsum("ngc...,goc->ngo...", x[at], w[tap]), 0)
    return y.reshape(n, c_o, *outputs(axes))


def conv_input(y: np.ndarray, w: np.ndarray, axes: list[Axis], groups: int) -> np.ndarray:
    """The adjoint of `conv_output` in x: each element of y laid down as its window read."""
    n, c_o = y.shape[:2]
    y = y.reshape(n, groups, c_o // groups, *y.shape[2:])
    w = w.reshape(groups, c_o // groups, *w.shape[1:])
    x = np.zeros((n, groups, w.shape[2], *(axis.n + 1 for axis in axes)), y.dtype)
    for tap, at, _ in taps(axes):
        np.add.at(x, at, np.einsum("ngo...,goc->ngc...", y, w[tap]))
    x = x[(..., *(slice(axis.n) for axis in axes))]
    return x.reshape(n, groups * w.shape[2], *x.shape[3:])


def conv_kernel(x: np.ndarray, y: np.ndarray, axes: list[Axis], groups: int, shape: Any) -> Any:
    """The adjoint of `conv_output` in w, of this shape."""
    n, c_o = y.shape[:2]
    x = grown(x, len(axes))
    x = x.reshape(n, groups, x.shape[1] // groups, *x.shape[2:])
    y = y.reshape(n, groups, c_o // groups, *y.shape[2:])
    w = np.zeros((groups, c_o // groups, x.shape[2], *shape[2:]), x.dtype)
    for tap, at, inside in taps(axes):
        read = np.where(inside, x[at], 0)
        for g in range(groups):
            sums = [0, *range(2, read.ndim - 1)]
            w[(g, *tap)] = np.tensordot(y[:, g], read[:, g], (sums, sums))
    return w.reshape(shape)


class Conv(NamedTuple):
    """The options of a convolution, each None if it could not be read."""

    order: Any
    stride: Any
    padding: Any
    dilation: Any
    groups: Any


def conv_options(r: Reading, name: str, ndim: Any, stride, padding, dilation, groups, layout):
    """The options, for the rank that `name`, a kernel with so many axes, has."""
    rank = None if ndim is None or not 3 <= ndim <= 5 else ndim - 2
    if ndim is not None and rank is None:
        r.fault(ValueError, name)
    return Conv(
        r.order(layout, rank, name),
        r.per_axis("stride", stride, rank),
        r.padding(padding, rank),
        r.per_axis("dilation", dilation, rank),
        r.integer("groups", groups, 1),
    )


def match(r: Reading, x_name: str, x_shape: Any, name: str, shape: Any, call: Conv) -> None:
    """Whether a kernel of this shape can read images of that one."""
    r.need(call.order)
    c_o, per_group, window = call.order.kernel(shape)
    if 0 in window:
        r.fault(ValueError, name)
    r.image(x_name, x_shape, call.order)
    r.need(call.groups)
    if c_o % call.groups:
        r.fault(ValueError, "groups", name)
    if call.order.channels(x_shape) != per_group * call.groups:
        r.fault(ValueError, x_name, name, "groups")


def conv_axes(r: Reading, x_name, x_shape, name, shape, call: Conv, mode: Any) -> list[Axis]:
    r.need(*call, mode)
    spatial, window = call.order.spatial(x_shape), call.order.kernel(shape)[2]
    if 0 in window:
        raise _StopReadingError
    steps = (call.stride, call.padding, call.dilation)
    c_o = call.order.kernel(shape)[0]
    rows = math.prod(call.order.batch(x_shape)) * c_o
    return window_axes(r, spatial, window, *steps, (x_name, name, "dy"), rows, mode=mode)


def conv(
    r: Reading, x, kernel, bias=None, *, stride=1, padding=0, dilation=1, groups=1,
    padding_mode="zeros", layout=None, precision=None, preferred_element_type=None,
    algorithm="auto",
):  # fmt: skip
    x, kernel = r.array("x", x), r.array("kernel", kernel)
    given = [] if bias is None else [r.array("bias", bias)]
    mode = r.choice("padding_mode", padding_mode, PADDING_MODES)
    ndim = None if kernel is None else kernel.ndim
    call = conv_options(r, "kernel", ndim, stride, padding, dilation, groups, layout)
    operands = (x, kernel, *given)
    dtype = r.numerics(precision, preferred_element_type, algorithm, *operands)
    r.need(x, kernel, *given)
    match(r, "x", x.shape, "kernel", kernel.shape, call)
    c_o, per_group, _ = call.order.kernel(kernel.shape)
    if given and given[0].shape not in ((c_o,), (c_o, per_group)):
        r.fault(ValueError, "bias")
    axes = conv_axes(r, "x", x.shape, "kernel", kernel.shape, call, mode)
    r.sound()
    promoted = promote(*operands)
    order = call.order
    images = order.planes(wide(x, promoted, dtype))
    taken = order.kernel_first(wide(kernel, promoted, dtype))
    y = conv_output(images, taken, axes, call.groups)
    if given:
        each = wide(given[0], promoted, dtype).reshape(c_o, -1).sum(axis=1)
        y = y + each.reshape(c_o, *(1,) * order.rank)
    return order.image(y, order.batch(x.shape)).astype(dtype)


def transpose_sizes(r: Reading, name, m, window, stride, padding, extra, dilation) -> Any:
    """Sizes of a transposed convolution's result and its low padding, per axis."""
    if 0 in m:
        r.fault(ValueError, name)
    sizes, lows = [], []
    whole = [count * s for count, s in zip(m, stride, strict=True)]
    pairs = sides(padding, whole, window, stride, dilation)
    axes = zip(m, window, stride, dilation, extra, pairs, strict=True)
    for count, k, s, d, more, (low, high) in axes:
        if more >= max(s, d):
            r.fault(ValueError, "output_padding")
        size = (count - 1) * s - low - high + d * (k - 1) + more + 1
        if isinstance(padding, str) and padding.startswith("same"):
            size = count * s + more
        if size < 0:
            r.fault(ValueError, "padding")
        sizes.append(size)
        lows.append(low)
    _allow_refusal(r, pairs, ("padding", "stride", "dilation"))
    return tuple(sizes), lows


def conv_transpose(
    r: Reading, y, kernel, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1,
    groups=1, layout=None, precision=None, preferred_element_type=None, algorithm="auto",
):  # fmt: skip
    y, kernel = r.array("y", y), r.array("kernel", kernel)
    given = [] if bias is None else [r.array("bias", bias)]
    ndim = None if kernel is None else kernel.ndim
    call = conv_options(r, "kernel", ndim, stride, padding, dilation, groups, layout)
    operands = (y, kernel, *given)
    dtype = r.numerics(precision, preferred_element_type, algorithm, *operands)
    extra = None
    if ndim is not None and 3 <= ndim <= 5:
        extra = r.per_axis("output_padding", output_padding, ndim - 2, 0)
    r.need(y, kernel, call.order, *given)
    order = call.order
    c_o, per_group, window = order.kernel(kernel.shape)
    if 0 in window:
        r.fault(ValueError, "kernel")
    r.image("y", y.shape, order)
    if order.channels(y.shape) != c_o:
        r.fault(ValueError, "y", "kernel")
    r.need(call.groups)
    if c_o % call.groups:
        r.fault(ValueError, "groups", "kernel")
    c_i, m = per_group * call.groups, order.spatial(y.shape)
    if given and given[0].shape != (c_i,):
        r.fault(ValueError, "bias")
    r.need(*call, extra)
    steps = (call.stride, call.padding, extra, call.dilation)
    sizes, lows = transpose_sizes(r, "y", m, window, *steps)
    r.need(None if min(sizes) < 0 else sizes)
    blamed = ("stride", "dilation", "padding", "output_padding")
    r.fits((*order.batch(y.shape), c_i, *sizes), *blamed, work=math.prod(window))
    r.sound()
    promoted = promote(*operands)
    axes = [
        axis_reads(n, count, k, s, d, low, n)  # all that lies in x is read
        for n, count, k, s, d, low in zip(
            sizes, m, window, call.stride, call.dilation, lows, strict=True
        )
    ]
    images = order.planes(wide(y, promoted, dtype))
    taken = order.kernel_first(wide(kernel, promoted, dtype))
    x = conv_input(images, taken, axes, call.groups)
    if given:
        x = x + wide(given[0], promoted, dtype).reshape(c_i, *(1,) * order.rank)
    return order.image(x, order.batch(y.shape)).astype(dtype)


# Pools.


def pool_call(
    r: Reading, name: str, shape: Any, window, stride, padding, dilation, ceil_mode, layout
) -> tuple[Order, Any, list[Axis]]:
    """Order, window and axes of a pool over images of this shape."""
    window = r.sizes("window", window, 1)
    ceil = r.flag("ceil_mode", ceil_mode)
    rank = None if window is None else len(window)
    stride = window if stride is None else r.per_axis("stride", stride, rank)
    padding, dilation = r.padding(padding, rank), r.per_axis("dilation", dilation, rank)
    order = r.order(layout, rank, "window")
    r.need(shape, window, ceil, stride, padding, dilation, order)
    r.image(name, shape, order)
    spatial = order.spatial(shape)
    pairs = sides(padding, spatial, window, stride, dilation)
    for pair, k, d in zip(pairs, window, dilation, strict=True):
        if max(pair) > d * (k - 1):
            r.fault(ValueError, "padding", "window", "dilation")
    steps = (stride, padding, dilation)
    rows = math.prod(order.batch(shape)) * order.channels(shape)
    axes = window_axes(r, spatial, window, *steps, (name, "window"), rows, ceil=bool(ceil))
    return order, window, axes


def extreme(x: np.ndarray, axes: list[Axis], least: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Values and flat positions of the first greatest elements, NaN the greatest; -1 for none."""
    spatial = tuple(axis.n for axis in axes)
    plane = np.arange(math.prod(spatial)).reshape(spatial)
    x, plane = grown(x, len(axes)), grown(plane, len(axes))
    if kind(x.dtype) == "f":
        ends = -np.inf, np.inf
    else:
        ends = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
    best = np.full((*x.shape[:2], *outputs(axes)), ends[least], x.dtype)
    where = np.full(best.shape, -1, np.int32)
    for _, at, inside in taps(axes):
        new = x[at]
        above = (new < best if least else new > best) | ((new != new) & (best == best))
        wins = inside & (above | (where < 0))
        best, where = np.where(wins, new, best), np.where(wins, plane[at], where)
    return best, where.astype(np.int32)


def total(x: np.ndarray, axes: list[Axis]) -> np.ndarray:
    x = grown(x, len(axes))
    y = np.zeros((*x.shape[:2], *outputs(axes)), x.dtype)
    for _, at, inside in taps(axes):
        y += np.where(inside, x[at], 0)
    return y


def window_counts(axes: list[Axis], include_pad: bool) -> np.ndarray:
    each = [axis.counted if include_pad else (axis.reads < axis.n).sum(axis=1) for axis in axes]
    return functools.reduce(np.multiply.outer, each)


def max_pool(
    r: Reading, x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
    return_indices=False, layout=None,
):  # fmt: skip
    x = r.array("x", x, "iuf")
    wants = r.flag("return_indices", return_indices)
    shape = None if x is None else x.shape
    order, _, axes = pool_call(r, "x", shape, window, stride, padding, dilation, ceil_mode, layout)
    r.sound()
    r.need(wants)
    return _maxima(order, x, wants, lambda planes: extreme(planes, axes))


def _maxima(order: Order, x: Any, indices: Any, find: Callable[..., Any]) -> Any:
    dtype = promote(x)
    y, where = find(order.planes(np.asarray(x).astype(dtype)))
    y, where = (order.image(value, order.batch(x.shape)) for value in (y, where))
    return (y, where) if indices else y


def min_pool(
    r: Reading, x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=None
):
    x = r.array("x", x, "iuf")
    shape = None if x is None else x.shape
    order, _, axes = pool_call(r, "x", shape, window, stride, padding, dilation, ceil_mode, layout)
    r.sound()
    return _maxima(order, x, False, lambda planes: extreme(planes, axes, least=True))


def _divisor(r: Reading, value: Any) -> Any:
    """None where none is given; a fault ends the reading before it is used."""
    if value is None:
        return None
    divisor = r.integer("divisor_override", value)
    if divisor == 0:
        r.fault(ValueError, "divisor_override")
    return divisor


def avg_pool(
    r: Reading, x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
    count_include_pad=True, divisor_override=None, layout=None,
):  # fmt: skip
    x = r.array("x", x)
    include, divisor = r.flag("count_include_pad", count_include_pad), _divisor(r, divisor_override)
    shape = None if x is None else x.shape
    order, _, axes = pool_call(r, "x", shape, window, stride, padding, dilation, ceil_mode, layout)
    r.sound()
    r.need(include)
    dtype = floating(promote(x))
    count = window_counts(axes, bool(include)) if divisor is None else np.float64(divisor)
    y = total(order.planes(wide(x, promote(x), dtype)), axes) / count
    return order.image(y, order.batch(x.shape)).astype(dtype)


def lp_pool(
    r: Reading, x, window, p=2.0, *, stride=None, padding=0, dilation=1, ceil_mode=False,
    layout=None,
):  # fmt: skip
    x, p = r.array("x", x, "iuf"), _positive(r, "p", p)
    shape = None if x is None else x.shape
    order, _, axes = pool_call(r, "x", shape, window, stride, padding, dilation, ceil_mode, layout)
    r.sound()
    r.need(p)
    dtype = floating(promote(x))
    magnitude = np.abs(order.planes(wide(x, promote(x), dtype)))
    if not math.isinf(p):
        largest = np.finfo(np.float64 if dtype == np.float64 else np.float32).max
        if (total(np.where(np.isfinite(magnitude), magnitude, 0) ** p, axes) > largest).any():
            raise UndecidedError  # the docstring asks for less
        y = total(magnitude**p, axes) ** (1 / p)
    else:
        y = extreme(magnitude, axes)[0]
        y = np.where(y == -np.inf, 0, y)
    return order.image(y, order.batch(x.shape)).astype(dtype)


def _positive(r: Reading, name: str, value: Any, finite: bool = False) -> Any:
    """A number above 0, also as an array without axes."""
    if isinstance(value, (np.ndarray, jax.Array)):
        real = value.ndim == 0 and kind(value.dtype) in "iuf"
    else:
        real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not real:
        return r.fault(TypeError, name)
    try:
        number = float(value)
    except OverflowError:
        return r.fault(ValueError, name)
    valid = number > 0 and not (finite and math.isinf(number))
    return number if valid else r.fault(ValueError, name)


def _adaptive(r: Reading, x: Any, output_shape: Any, layout: Any) -> tuple[Order, Any]:
    """The order, and for each axis the start and stop of its windows."""
    items = r.sequence("output_shape", output_shape)
    rank = None
    if items is not None and not 1 <= len(items) <= 3:
        r.fault(ValueError, "output_shape")
    elif items is not None:
        rank = len(items)
    read = [None if m is None else r.integer("output_shape", m, 0) for m in items or ()]
    order = r.order(layout, rank, "output_shape")
    r.need(x, order)
    r.image("x", x.shape, order)
    spatial = order.spatial(x.shape)
    if 0 in spatial:
        r.fault(ValueError, "x")
    r.sound()
    sizes = [n if m is None else m for n, m in zip(spatial, read, strict=True)]
    channels = (*order.batch(x.shape), order.channels(x.shape))
    r.fits((*channels, *sizes), "output_shape", work=math.prod(spatial))
    r.fits(sizes, "output_shape")
    return order, [
        [(i * n // m, math.ceil((i + 1) * n / m)) for i in range(m)]
        for n, m in zip(spatial, sizes, strict=True)
    ]


def _regions(spans: Any) -> Iterator[tuple[Any, Any]]:
    for index in itertools.product(*(range(len(axis)) for axis in spans)):
        cut = (slice(*axis[i]) for axis, i in zip(spans, index, strict=True))
        yield (..., *index), (..., *cut)


def adaptive_avg_pool(r: Reading, x, output_shape, *, layout=None):
    x = r.array("x", x)
    order, spans = _adaptive(r, x, output_shape, layout)
    dtype = floating(promote(x))
    planes = order.planes(wide(x, promote(x), dtype))
    y = np.zeros((*planes.shape[:2], *map(len, spans)), planes.dtype)
    for index, cut in _regions(spans):
        y[index] = planes[cut].mean(axis=tuple(range(2, planes.ndim)))
    return order.image(y, order.batch(x.shape)).astype(dtype)


def adaptive_max_pool(r: Reading, x, output_shape, *, return_indices=False, layout=None):
    x = r.array("x", x, "iuf")
    wants = r.flag("return_indices", return_indices)
    order, spans = _adaptive(r, x, output_shape, layout)
    r.need(wants)

    def find(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spatial = planes.shape[2:]
        flat = np.arange(math.prod(spatial)).reshape(spatial)
        y = np.zeros((*planes.shape[:2], *map(len, spans)), planes.dtype)
        where = np.zeros(y.shape, np.int32)
        for index, cut in _regions(spans):
            held = planes[cut].reshape(*planes.shape[:2], flat[cut].size)
            comparable = held.astype(np.float64) if kind(held.dtype) == "f" else held
            first = comparable.argmax(axis=-1)  # the first NaN if there is one
            y[index] = np.take_along_axis(held, first[..., None], -1)[..., 0]
            where[index] = flat[cut].reshape(-1)[first]
        return y, where

    return _maxima(order, x, wants, find)


def max_unpool(r: Reading, y, indices, output_shape, *, layout=None):
    y, indices = r.array("y", y), r.array("indices", indices, "iu")
    sizes = r.sizes("output_shape", output_shape)
    order = r.order(layout, None if sizes is None else len(sizes), "output_shape")
    r.need(y, indices, sizes, order)
    if y.shape != indices.shape:
        r.fault(ValueError, "indices", "y")
    r.image("y", y.shape, order)
    plane = math.prod(sizes)
    if plane > LARGEST:
        r.fault(ValueError, "output_shape")
    at = [int(i) for i in np.asarray(indices).ravel()]
    if at and not r.traced and (min(at) < -1 or max(at) >= plane):
        r.fault(ValueError, "indices")
    r.sound()
    channels = (*order.batch(y.shape), order.channels(y.shape))
    r.fits((*channels, *sizes), "output_shape")
    dtype = promote(y)
    values = order.planes(np.asarray(y).astype(dtype))
    where = order.planes(np.asarray(indices))
    x = np.zeros((*values.shape[:2], plane), dtype)
    for n, c, *place in np.ndindex(*values.shape):
        position = int(where[(n, c, *place)])
        if 0 <= position < plane:
            x[n, c, position] = values[(n, c, *place)]
    return order.image(x.reshape(*values.shape[:2], *sizes), order.batch(y.shape))


# Columns.


def _column_options(r: Reading, window, stride, padding, dilation, layout) -> Any:
    window = r.sizes("window", window, 1)
    rank = None if window is None else len(window)
    return (
        window,
        r.per_axis("stride", stride, rank),
        r.padding(padding, rank),
        r.per_axis("dilation", dilation, rank),
        r.order(layout, rank, "window"),
    )


def unfold(r: Reading, x, window, *, stride=1, padding=0, dilation=1, layout=None):
    x = r.array("x", x)
    *steps, order = _column_options(r, window, stride, padding, dilation, layout)
    r.need(x, *steps, order)
    r.image("x", x.shape, order)
    batch, channels = order.batch(x.shape), order.channels(x.shape)
    many = math.prod(steps[0])
    rows = math.prod(batch) * channels * many
    axes = window_axes(r, order.spatial(x.shape), *steps, ("x", "window"), rows)
    r.sound()
    places = math.prod(outputs(axes))
    planes = grown(order.planes(np.asarray(x).astype(promote(x))), order.rank)
    cut = [np.where(inside, planes[at], 0) for _, at, inside in taps(axes)]
    columns = np.stack(cut, axis=2).astype(planes.dtype).reshape(*planes.shape[:2], many, places)
    if order.last:  # (n, c, taps, places) to (n, places, taps * c)
        columns = columns.transpose(0, 3, 2, 1)
        return columns.reshape(*batch, places, many * channels)
    return columns.reshape(*batch, channels * many, places)


def fold(
    r: Reading, columns, output_shape, window, *, stride=1, padding=0, dilation=1, layout=None
):
    columns = r.array("columns", columns)
    *steps, order = _column_options(r, window, stride, padding, dilation, layout)
    sizes = r.sizes("output_shape", output_shape)
    if sizes is not None and order is not None and len(sizes) != order.rank:
        r.fault(ValueError, "output_shape", "window")
        raise _StopReadingError
    r.need(columns, sizes, *steps, order)
    if columns.ndim < 2:
        r.fault(ValueError, "columns")
    axes = window_axes(r, sizes, *steps, ("output_shape", "window", "columns"), 1)
    many, places = math.prod(steps[0]), math.prod(outputs(axes))
    r.need(columns if columns.ndim > 1 else None)
    *batch, depth, count = columns.shape
    if order.last:
        depth, count = count, depth
    if count != places or depth % many:
        r.fault(ValueError, "columns")
    r.sound()
    channels = depth // many
    r.fits((*batch, channels, *sizes), "output_shape", work=many)
    dtype = promote(columns)
    values = wide(columns, dtype)
    rows = math.prod(batch)
    if order.last:
        values = values.reshape(rows, places, many, channels).transpose(0, 3, 2, 1)
    values = values.reshape(rows, channels, many, *outputs(axes))
    x = np.zeros((rows, channels, *(axis.n + 1 for axis in axes)), values.dtype)
    for number, (_, at, _) in enumerate(taps(axes)):
        np.add.at(x, at, values[:, :, number])
    x = x[(..., *(slice(axis.n) for axis in axes))]
    return order.image(x, tuple(batch)).astype(dtype)


# Plain arrays, and the notes' functions.


def correlate(r: Reading, x, k, mode="valid"):
    return _signal(r, x, k, mode, np.conj)


def convolve(r: Reading, x, k, mode="full"):
    """Correlation with the flipped kernel, not conjugated; "valid" has no order to tell."""
    return _signal(r, x, k, mode, np.flip)


def _signal(r: Reading, x: Any, k: Any, mode: Any, turn: Any) -> Any:
    x, k = r.array("x", x), r.array("k", k)
    mode = r.choice("mode", mode, ("full", "same", "valid"))
    if x is not None and k is not None:
        if x.ndim != k.ndim or not 1 <= x.ndim <= 3:
            r.fault(ValueError, "x", "k")
        for name, value in (("x", x), ("k", k)):
            if 0 in value.shape:
                r.fault(ValueError, name)
    r.need(x, k, mode)
    r.sound()
    n, m = np.array(x.shape), np.array(k.shape)
    if mode == "valid" and not ((n >= m).all() or (n <= m).all()):
        r.fault(ValueError, "mode", "x", "k")
    r.sound()
    dtype = promote(x, k)
    image, kernel = wide(x, dtype), turn(wide(k, dtype))
    z = np.zeros(n + m - 1, image.dtype)
    for a in np.ndindex(*kernel.shape):
        start = m - 1 - np.array(a)
        z[tuple(slice(s, s + size) for s, size in zip(start, n, strict=True))] += image * kernel[a]
    start, stop = np.zeros_like(n), n + m - 1
    if mode == "same":
        start = (m - 1) // 2
        stop = start + n
    elif mode == "valid":
        start, stop = np.minimum(n, m) - 1, np.maximum(n, m)
    return z[tuple(slice(*ends) for ends in zip(start, stop, strict=True))].astype(dtype)


def _notes(r: Reading, X: Any, K: Any, axes_x: int, axes_k: Sequence[int]) -> Any:
    X, K = r.array("X", X), r.array("K", K)
    if X is not None and X.ndim != axes_x:
        r.fault(ValueError, "X")
    if K is not None and K.ndim not in axes_k:
        r.fault(ValueError, "K")
    r.need(X, K)
    r.sound()
    return X, K, promote(X, K)


def _notes_conv(r: Reading, X: Any, K: Any, dtype: np.dtype) -> np.ndarray:
    """`(ci, h, w), (co, ci, kh, kw) -> (co, h', w')`; what is left out has been added."""
    if X.shape[0] != K.shape[1]:
        r.fault(ValueError, "K", "X")
    if any(not 1 <= k <= n for k, n in zip(K.shape[2:], X.shape[1:], strict=True)):
        r.fault(ValueError, "K", "X")
    r.sound()
    sizes = zip(X.shape[1:], K.shape[2:], strict=True)
    axes = [axis_reads(n, n - k + 1, k, 1, 1, 0, 0) for n, k in sizes]
    return conv_output(wide(X, dtype)[None], wide(K, dtype), axes, 1)[0].astype(dtype)


def corr2d(r: Reading, X, K):
    X, K, dtype = _notes(r, X, K, 2, (2,))
    return _notes_conv(r, np.asarray(X)[None], np.asarray(K)[None, None], dtype)[0]


def corr2d_multi_in(r: Reading, X, K):
    X, K, dtype = _notes(r, X, K, 3, (3,))
    return _notes_conv(r, X, np.asarray(K)[None], dtype)[0]


def corr2d_multi_in_out(r: Reading, X, K):
    return _notes_conv(r, *_notes(r, X, K, 3, (4,)))


def corr2d_multi_in_out_1x1(r: Reading, X, K):
    X, K, dtype = _notes(r, X, K, 3, (2, 4))
    if K.shape[2:] not in ((), (1, 1)):
        r.fault(ValueError, "K")
    if K.shape[1] != X.shape[0]:
        r.fault(ValueError, "K", "X")
    r.sound()
    weights = wide(K, dtype).reshape(K.shape[:2])
    return np.einsum("oc,chw->ohw", weights, wide(X, dtype)).astype(dtype)


def pool2d(r: Reading, X, pool_size, mode="max"):
    X, window = r.array("X", X), r.sizes("pool_size", pool_size, 1)
    mode = r.choice("mode", mode, ("max", "avg"))
    if X is not None and X.ndim != 2:
        r.fault(ValueError, "X")
    if X is not None and mode == "max" and kind(X.dtype) == "c":
        r.fault(TypeError, "X")
    if window is not None and len(window) != 2:
        window = r.fault(ValueError, "pool_size")
    r.need(X, window)
    if X.ndim == 2 and any(k > n for k, n in zip(window, X.shape, strict=True)):
        r.fault(ValueError, "pool_size", "X")
    r.sound()
    pool, options = (max_pool, {}) if mode == "max" else (avg_pool, {})
    return pool(r, np.asarray(X).astype(promote(X))[None], window, stride=1, **options)[0]


# Filters.


def _size(r: Reading, size: Any) -> Any:
    if _is_many(size):
        shape = r.sizes("size", size, 1)
    else:
        found = r.integer("size", size, 1)
        shape = None if found is None else (found, found)
    if shape is not None and math.prod(shape) > ENDLESS:
        return r.fault(ValueError, "size")
    return shape


def mean(r: Reading, size):
    shape = _size(r, size)
    r.need(shape)
    r.fits(shape, "size")
    return np.full(shape, 1 / math.prod(shape)).astype(default_float())


def gaussian(r: Reading, size, sigma):
    shape = _size(r, size)
    given: Any = (sigma,)
    if _is_many(sigma):
        given = r.sequence("sigma", sigma)
    widths = [_positive(r, "sigma", width, finite=True) for width in given or ()]
    r.need(shape, given)
    if _is_many(sigma) and len(widths) != len(shape):
        r.fault(ValueError, "sigma")
    r.sound()
    r.fits(shape, "size")
    bells = []
    for n, width in zip(shape, widths if _is_many(sigma) else widths * len(shape), strict=True):
        away = [(i - (n - 1) / 2) ** 2 for i in range(n)]
        # Relative to the middle, where the narrowest bell still has something to sum.
        bell = np.array([np.exp(-(a - min(away)) / 2 / width / width) for a in away])
        bells.append(bell / bell.sum())
    return functools.reduce(np.multiply.outer, bells).astype(default_float())


def sobel(r: Reading, axis=-1):
    found = r.integer("axis", axis)
    r.need(found)
    if found not in (-2, -1, 0, 1):
        r.fault(ValueError, "axis")
    r.sound()
    rows = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    kernel = np.array(rows if found in (-2, 0) else list(zip(*rows, strict=True)))
    return kernel.astype(default_float())


def _constant(*rows: Any) -> Callable[[Reading], np.ndarray]:
    return lambda r: np.array(rows).astype(default_float())


def apply(r: Reading, image, kernel, *, padding_mode="reflect", layout=None):
    image, kernel = r.array("image", image), r.array("kernel", kernel)
    mode = r.choice("padding_mode", padding_mode, PADDING_MODES)
    order = r.order(layout, None if kernel is None else kernel.ndim, "kernel")
    r.need(image, kernel, mode, order)
    if 0 in kernel.shape:
        r.fault(ValueError, "kernel")
    if image.ndim < order.rank:
        r.fault(ValueError, "image")
        raise _StopReadingError
    bare = image.ndim == order.rank
    order = Order(order.rank, order.last and not bare)
    dtype = promote(image, kernel)
    planes = wide(image, dtype)
    planes = planes[None, None] if bare else order.planes(planes)
    spatial = planes.shape[2:]
    low = [k // 2 for k in kernel.shape]
    high = [k - 1 - k // 2 for k in kernel.shape]
    for n, *pair in zip(spatial, low, high, strict=True):
        if not n or max(pair) > mode_limit(mode, n, *pair):
            r.fault(ValueError, "image", "kernel", "padding_mode")
    r.sound()
    axes = [
        axis_reads(n, n, k, 1, 1, a, b, mode)
        for n, k, a, b in zip(spatial, kernel.shape, low, high, strict=True)
    ]
    one = planes.reshape(planes.shape[0] * planes.shape[1], 1, *spatial)
    y = conv_output(one, wide(kernel, dtype)[None, None], axes, 1).reshape(planes.shape)
    y = y.reshape(image.shape) if bare else order.image(y, order.batch(image.shape))
    return y.astype(dtype)


# Geometry.


def _integers_call(r: Reading, spatial, window, stride, padding, dilation) -> Any:
    window, spatial = r.sizes("window", window, 1), r.sizes("spatial", spatial)
    rank = None if window is None else len(window)
    found = (
        spatial,
        window,
        r.per_axis("stride", stride, rank),
        r.padding(padding, rank),
        r.per_axis("dilation", dilation, rank),
    )
    if spatial is not None and window is not None and len(spatial) != rank:
        r.fault(ValueError, "spatial", "window")
        raise _StopReadingError
    return found


def _counts(r: Reading, n, k, s, padding, d, ceil: bool, names: tuple[str, ...]) -> Any:
    pairs = sides(padding, n, k, s, d)
    axes = zip(n, k, s, d, pairs, strict=True)
    counts = tuple(output_size(*sizes, *pair, ceil) for *sizes, pair in axes)
    if min(counts) < 1:
        r.fault(ValueError, "padding", "dilation", *names)
    return counts, pairs


def conv_output_shape(r: Reading, spatial, window, *, stride=1, padding=0, dilation=1):
    call = _integers_call(r, spatial, window, stride, padding, dilation)
    r.need(*call)
    counts, _ = _counts(r, *call, False, ("spatial", "window"))
    r.sound()
    return counts


def conv_transpose_output_shape(
    r: Reading, spatial, window, *, stride=1, padding=0, output_padding=0, dilation=1
):
    call = _integers_call(r, spatial, window, stride, padding, dilation)
    rank = None if call[1] is None else len(call[1])
    extra = r.per_axis("output_padding", output_padding, rank, 0)
    r.need(*call, extra)
    m, k, s, pads, d = call
    sizes, _ = transpose_sizes(r, "spatial", m, k, s, pads, extra, d)
    r.sound()
    r.allowed.clear()  # integers are no trouble
    return sizes


def pool_output_shape(
    r: Reading, spatial, window, *, stride=None, padding=0, dilation=1, ceil_mode=False
):
    ceil = r.flag("ceil_mode", ceil_mode)
    stride = window if stride is None else stride
    call = _integers_call(r, spatial, window, stride, padding, dilation)
    r.need(*call)
    counts, pairs = _counts(r, *call, bool(ceil), ("spatial", "window"))
    for pair, k, d in zip(pairs, call[1], call[4], strict=True):
        if max(pair) > d * (k - 1):
            r.fault(ValueError, "padding", "window", "dilation")
    r.need(ceil)
    r.sound()
    return counts


def receptive_field(r: Reading, layers):
    if not isinstance(layers, Iterable) or getattr(layers, "ndim", 1) == 0:
        r.fault(TypeError, "layers")
        raise _StopReadingError
    if isinstance(layers, (str, bytes, dict, set)) and len(layers):
        for error in (TypeError, ValueError):  # nothing that one could call a stack of layers
            r.fault(error, "layers")
        raise _StopReadingError
    read = [_layer(r, layer) for layer in layers]
    ranks = {len(layer[0]) for layer in read if layer is not None}
    if not read or len(ranks) > 1:
        r.fault(ValueError, "layers")
    r.sound()
    (rank,) = ranks
    size, jump, start = [1] * rank, [1] * rank, [0] * rank
    for window, stride, pairs, dilation in read:  # pyright: ignore[reportGeneralTypeIssues]
        for a in range(rank):
            size[a] += dilation[a] * (window[a] - 1) * jump[a]
            start[a] -= pairs[a][0] * jump[a]
            jump[a] *= stride[a]
    return tuple(size), tuple(jump), tuple(start)


def _layer(r: Reading, layer: Any) -> Any:
    fields = r.sequence("layers", layer)
    if fields is not None and not 1 <= len(fields) <= 4:
        fields = r.fault(ValueError, "layers")
    if fields is None:
        return None
    window, stride, padding, dilation = (*fields, *(1, 0, 1)[len(fields) - 1 :])
    window = r.sizes("layers", window, 1)
    rank = None if window is None else len(window)
    stride, dilation = (r.per_axis("layers", value, rank) for value in (stride, dilation))
    padding = r.padding(padding, rank, "layers")
    if None in (window, stride, padding, dilation):
        return None
    if isinstance(padding, str):
        if padding.startswith("same") and max(stride) > 1:
            return r.fault(ValueError, "layers")
        # Of all sizes alike, as "same" comes without a stride here.
        padding = sides(padding, (1,) * len(stride), window, stride, dilation)
    return window, stride, padding, dilation


def conv_cost(
    r: Reading, x_shape, kernel_shape, *, stride=1, padding=0, dilation=1, groups=1, layout=None,
    itemsize=4,
):  # fmt: skip
    x_shape, kernel_shape = r.shape("x_shape", x_shape), r.shape("kernel_shape", kernel_shape)
    ndim = None if kernel_shape is None else len(kernel_shape)
    call = conv_options(r, "kernel_shape", ndim, stride, padding, dilation, groups, layout)
    each = r.integer("itemsize", itemsize, 1)
    r.need(x_shape, kernel_shape)
    match(r, "x_shape", x_shape, "kernel_shape", kernel_shape, call)
    c_o, _, window = call.order.kernel(kernel_shape)
    if 0 in window:
        raise _StopReadingError
    r.need(*call)
    steps = (call.stride, call.padding, call.dilation)
    spatial = call.order.spatial(x_shape)
    counts, _ = _counts(r, spatial, window, *steps, False, ("x_shape", "kernel_shape"))
    r.need(each)
    r.sound()
    parameters = math.prod(kernel_shape)
    places = math.prod(call.order.batch(x_shape)) * math.prod(counts)
    moved = math.prod(x_shape) + parameters + places * c_o
    return parameters, places * parameters, moved * (each or 0)


# The closed forms.


def _gradient_call(r: Reading, x_name, x_shape, name, shape, dy, options) -> Any:
    """What a gradient shares with `conv`: its options, and the axes of a forward call."""
    stride, padding, dilation, groups, padding_mode, layout = options
    mode = r.choice("padding_mode", padding_mode, PADDING_MODES)
    ndim = None if shape is None else len(shape)
    call = conv_options(r, name, ndim, stride, padding, dilation, groups, layout)
    r.need(x_shape, shape)
    match(r, x_name, x_shape, name, shape, call)
    axes = conv_axes(r, x_name, x_shape, name, shape, call, mode)
    order, c_o = call.order, call.order.kernel(shape)[0]
    batch = order.batch(x_shape)
    sizes = (*outputs(axes), c_o) if order.last else (c_o, *outputs(axes))
    r.fits(x_shape, x_name)
    r.fits(shape, name)
    if dy is not None and dy.shape != (*batch, *sizes):
        r.fault(ValueError, "dy", x_name, name)
    return call, axes


def conv_kernel_grad(
    r: Reading, x, dy, kernel_shape, *, stride=1, padding=0, dilation=1, groups=1,
    padding_mode="zeros", layout=None, precision=None, preferred_element_type=None,
    algorithm="auto",
):  # fmt: skip
    x, dy = r.array("x", x), r.array("dy", dy)
    shape = r.shape("kernel_shape", kernel_shape)
    numerics = (precision, preferred_element_type, algorithm)
    dtype = _gradient_dtype(r, numerics, x, dy)
    options = (stride, padding, dilation, groups, padding_mode, layout)
    x_shape = None if x is None else x.shape
    call, axes = _gradient_call(r, "x", x_shape, "kernel_shape", shape, dy, options)
    r.need(dtype, dy)
    r.sound()
    order = call.order
    c_o, per_group, window = order.kernel(shape)
    images, errors = (order.planes(wide(value, dtype)) for value in (x, dy))
    dw = conv_kernel(images, errors, axes, call.groups, (c_o, per_group, *window))
    return order.kernel_back(dw).astype(dtype)


def _gradient_dtype(r: Reading, numerics: Any, *operands: Any) -> Any:
    """The preferred dtype must suit each operand as it is."""
    found = [r.numerics(*numerics, operand) for operand in operands]
    if any(dtype is None for dtype in found):
        return None
    return promote(*operands) if numerics[1] is None else found[0]


def conv_input_grad(
    r: Reading, dy, kernel, x_shape, *, stride=1, padding=0, dilation=1, groups=1,
    padding_mode="zeros", layout=None, precision=None, preferred_element_type=None,
    algorithm="auto",
):  # fmt: skip
    dy, kernel = r.array("dy", dy), r.array("kernel", kernel)
    shape = r.shape("x_shape", x_shape)
    numerics = (precision, preferred_element_type, algorithm)
    dtype = _gradient_dtype(r, numerics, dy, kernel)
    options = (stride, padding, dilation, groups, padding_mode, layout)
    kernel_shape = None if kernel is None else kernel.shape
    call, axes = _gradient_call(r, "x_shape", shape, "kernel", kernel_shape, dy, options)
    r.need(dtype, dy)
    r.sound()
    order = call.order
    errors = order.planes(wide(dy, dtype))
    taken = order.kernel_first(wide(kernel, dtype))
    dx = conv_input(errors, taken, axes, call.groups)
    return order.image(dx, order.batch(shape)).astype(dtype)


def conv_bias_grad(r: Reading, dy, *, layout):
    dy = r.array("dy", dy)
    if layout is not None:
        layout = r.choice("layout", layout, LAYOUTS)
        r.need(layout)
        order = Order(len(layout) - 2, layout[-1] == "C")
        r.need(dy)
        r.image("dy", dy.shape, order)
    else:
        r.need(dy)
        if not 3 <= dy.ndim <= 5:
            r.fault(ValueError, "dy")
            raise _StopReadingError
        order = Order(dy.ndim - 2, False)
    dtype = promote(dy)
    planes = order.planes(wide(dy, dtype))
    return planes.sum(axis=(0, *range(2, planes.ndim)), dtype=planes.dtype).astype(dtype)


def max_pool_grad(
    r: Reading, x, dy, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=None
):
    x, dy = r.array("x", x, "iuf"), r.array("dy", dy)
    shape = None if x is None else x.shape
    order, _, axes = pool_call(r, "x", shape, window, stride, padding, dilation, ceil_mode, layout)
    _pool_error(r, order, x.shape, axes, dy, "x")
    dtype = promote(dy)
    errors = order.planes(wide(dy, dtype))
    planes = order.planes(np.asarray(x).astype(promote(x)))
    _, where = extreme(planes, axes)
    dx = np.zeros((*planes.shape[:2], math.prod(planes.shape[2:])), errors.dtype)
    for n, c, *place in np.ndindex(*where.shape):
        if (winner := where[(n, c, *place)]) >= 0:
            dx[n, c, winner] += errors[(n, c, *place)]
    return order.image(dx.reshape(planes.shape), order.batch(x.shape)).astype(dtype)


def _pool_error(r: Reading, order: Order, shape: Any, axes: list[Axis], dy: Any, name: str) -> None:
    sizes, channels = outputs(axes), order.channels(shape)
    needed = (*sizes, channels) if order.last else (channels, *sizes)
    r.need(dy)
    if dy.shape != (*order.batch(shape), *needed):
        r.fault(ValueError, "dy", name, "window")
    r.sound()


def avg_pool_grad(
    r: Reading, dy, x_shape, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
    count_include_pad=True, divisor_override=None, layout=None,
):  # fmt: skip
    dy, shape = r.array("dy", dy), r.shape("x_shape", x_shape)
    include, divisor = r.flag("count_include_pad", count_include_pad), _divisor(r, divisor_override)
    order, _, axes = pool_call(
        r, "x_shape", shape, window, stride, padding, dilation, ceil_mode, layout
    )
    r.fits(shape, "x_shape")
    _pool_error(r, order, shape, axes, dy, "x_shape")
    r.need(include)
    dtype = floating(promote(dy))
    count = window_counts(axes, bool(include)) if divisor is None else np.float64(divisor)
    errors = order.planes(wide(dy, promote(dy), dtype)) / count
    dx = np.zeros((*errors.shape[:2], *(axis.n + 1 for axis in axes)), errors.dtype)
    for _, at, _ in taps(axes):
        np.add.at(dx, at, errors)
    dx = dx[(..., *(slice(axis.n) for axis in axes))]
    return order.image(dx, order.batch(shape)).astype(dtype)


#: By the name that callers write after `jaxconv.`.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        function.__name__: function
        for function in (
            conv, conv_transpose, max_pool, min_pool, avg_pool, lp_pool, adaptive_avg_pool,
            adaptive_max_pool, max_unpool, unfold, fold, correlate, convolve, corr2d,
            corr2d_multi_in, corr2d_multi_in_out, corr2d_multi_in_out_1x1, pool2d,
        )
    },
    **{f"filters.{function.__name__}": function for function in (mean, gaussian, sobel, apply)},
    "filters.laplacian": _constant([0, 1, 0], [1, -4, 1], [0, 1, 0]),
    "filters.first_derivative": _constant(0.5, 0, -0.5),
    "filters.second_derivative": _constant(1, -2, 1),
    "filters.edge": _constant([1, -1]),
    **{
        f"geometry.{function.__name__}": function
        for function in (
            conv_output_shape, conv_transpose_output_shape, pool_output_shape, receptive_field,
            conv_cost,
        )
    },
    **{
        f"gradients.{function.__name__}": function
        for function in (
            conv_kernel_grad, conv_input_grad, conv_bias_grad, max_pool_grad, avg_pool_grad,
        )
    },
}  # fmt: skip
