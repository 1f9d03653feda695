"""Oracles in NumPy that share no code with jaxconv: loops, and the trilinear form as a tensor.

Arrays are channels first with exactly one batch axis; `channels_last` and `batched` in `cases` move
axes. A configuration that the contract refuses raises `RefusedError`.
"""

import itertools
import math

import numpy as np


class RefusedError(Exception):
    """The contract asks for a ValueError here."""


def per_axis(value, rank):
    return tuple(value) if hasattr(value, "__len__") else (value,) * rank


def pairs(padding, spatial, window, stride, dilation):
    """(low, high) per axis of a forward padding, written from the contract's sentences."""
    rank = len(window)
    if not isinstance(padding, str):
        return [tuple(p) if hasattr(p, "__len__") else (p, p) for p in per_axis(padding, rank)]
    found = []
    for n, k, s, d in zip(spatial, window, stride, dilation, strict=True):
        reach, name = d * (k - 1), padding.lower()
        total = max((math.ceil(n / s) - 1) * s + reach + 1 - n, 0)
        found.append(
            {
                "valid": (0, 0),
                "full": (reach, reach),
                "causal": (reach, 0),
                "same": (total // 2, total - total // 2),
                "same_lower": (total - total // 2, total // 2),
            }[name]
        )
    return found


def taps(n, k, s, d, low, high, mode="zeros"):
    """M[i, a, t] = how often output i reads x[t] with tap a: the form's incidence along an axis."""
    outputs = (n + low + high - d * (k - 1) - 1) // s + 1
    if outputs < 1:
        raise RefusedError
    begin, end = max(0, -low), min(n, n + high)
    limit = {"reflect": n - 1, "replicate": math.inf if n else 0, "circular": end - begin}
    if max(low, high, 0) > max(limit.get(mode, math.inf), 0):
        raise RefusedError
    incidence = np.zeros((outputs, k, n))
    for i, a in itertools.product(range(outputs), range(k)):
        t = i * s + a * d - low
        if mode == "circular":
            t = begin + (t - begin) % (end - begin)
        elif mode == "replicate":
            t = min(max(t, 0), n - 1)
        elif mode == "reflect":
            t = 2 * (n - 1) - abs(t) if abs(t) >= n else abs(t)
        if 0 <= t < n:
            incidence[i, a, t] += 1
    return incidence


class Trilinear:
    """T(x, w, y) = sum of x, w, y and the incidences; leave one out for a projection."""

    def __init__(self, incidences, groups):
        self.incidences, self.groups = incidences, groups
        rank = len(incidences)
        self.axes = [("STU"[r], "ABC"[r], "XYZ"[r]) for r in range(rank)]

    def _specs(self):
        outputs, windows, inputs = ("".join(axis) for axis in zip(*self.axes, strict=True))
        return {"x": "ngi" + inputs, "w": "goi" + windows, "y": "ngo" + outputs}

    def _split(self, name, value):
        axis = 0 if name == "w" else 1
        grouped = (self.groups, value.shape[axis] // self.groups)
        return value.reshape(*value.shape[:axis], *grouped, *value.shape[axis + 1 :])

    def project(self, result, **operands):
        specs = self._specs()
        inputs = [specs[name] for name in operands] + ["".join(axis) for axis in self.axes]
        spec = f"{','.join(inputs)}->{specs[result]}"
        values = [self._split(name, value) for name, value in operands.items()]
        out = np.einsum(spec, *values, *self.incidences, optimize=True)
        axis = 0 if result == "w" else 1
        merged = out.shape[axis] * out.shape[axis + 1]
        return out.reshape(*out.shape[:axis], merged, *out.shape[axis + 2 :])


def conv_form(spatial, window, *, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros"):
    """The form of `conv` on inputs of these sizes."""
    rank = len(window)
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    sides = pairs(padding, spatial, window, stride, dilation)
    axes = zip(spatial, window, stride, dilation, sides, strict=True)
    return Trilinear(
        [taps(n, k, s, d, low, high, padding_mode) for n, k, s, d, (low, high) in axes], groups
    )


def transpose_form(outputs, window, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """The form whose input gradient is `conv_transpose` of images of these sizes."""
    rank = len(window)
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    extra = per_axis(output_padding, rank)
    whole = [m * s for m, s in zip(outputs, stride, strict=True)]
    sides = pairs(padding, whole, window, stride, dilation)
    incidences = []
    for r, (low, high) in enumerate(sides):
        m, k, s, d = outputs[r], window[r], stride[r], dilation[r]
        n = (m - 1) * s - low - high + d * (k - 1) + extra[r] + 1
        if isinstance(padding, str) and padding.lower().startswith("same"):
            n = m * s + extra[r]
        if n < 0 or m < 1 or extra[r] >= max(s, d):
            raise RefusedError
        incidence = np.zeros((m, k, n))
        for i, a in itertools.product(range(m), range(k)):
            if 0 <= i * s + a * d - low < n:
                incidence[i, a, i * s + a * d - low] = 1
        incidences.append(incidence)
    return Trilinear(incidences, groups)


def conv_loops(x, w, *, stride=1, padding=0, dilation=1, groups=1):
    """`conv` by nested loops over every index of the definition (zeros outside)."""
    rank = w.ndim - 2
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    spatial, window = x.shape[2:], w.shape[2:]
    sides = pairs(padding, spatial, window, stride, dilation)
    sizes = [
        (n + sum(side) - d * (k - 1) - 1) // s + 1
        for n, k, s, d, side in zip(spatial, window, stride, dilation, sides, strict=True)
    ]
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    y = np.zeros((x.shape[0], w.shape[0], *sizes), np.result_type(x, w))
    for n, p, *i in np.ndindex(*y.shape):
        for c, *a in np.ndindex(*w.shape[1:]):
            t = [i[r] * stride[r] + a[r] * dilation[r] - sides[r][0] for r in range(rank)]
            if all(0 <= t[r] < spatial[r] for r in range(rank)):
                channel = (p // outputs) * inputs + c
                y[(n, p, *i)] += x[(n, channel, *t)] * w[(p, c, *a)]
    return y


def pool_axis(n, k, s, d, low, high, ceil_mode):
    """Positions read by each window along one axis, padding included."""
    if max(low, high) > d * (k - 1):
        raise RefusedError
    room = n + low + high - d * (k - 1) - 1
    outputs = (-(-room // s) if ceil_mode else room // s) + 1
    if ceil_mode and (outputs - 1) * s >= n + low + min(high, 0):
        outputs -= 1
    if outputs < 1:
        raise RefusedError
    return [[i * s + a * d - low for a in range(k)] for i in range(outputs)]


class Windows:
    """Every window of a pool: its elements in row-major order, and how many of them count."""

    def __init__(self, spatial, window, *, stride=None, padding=0, dilation=1, ceil_mode=False):
        rank = len(window)
        stride = per_axis(window if stride is None else stride, rank)
        dilation = per_axis(dilation, rank)
        self.spatial = spatial
        self.sides = pairs(padding, spatial, window, stride, dilation)
        axes = zip(spatial, window, stride, dilation, self.sides, strict=True)
        self.reads = [
            pool_axis(n, k, s, d, low, high, ceil_mode) for n, k, s, d, (low, high) in axes
        ]
        self.sizes = tuple(len(reads) for reads in self.reads)

    def elements(self, output):
        """Positions of x in this window."""
        axes = [reads[i] for reads, i in zip(self.reads, output, strict=True)]
        limits = [
            (max(0, -low), min(n, n + high))
            for n, (low, high) in zip(self.spatial, self.sides, strict=True)
        ]
        return [
            position
            for position in itertools.product(*axes)
            if all(lo <= p < hi for p, (lo, hi) in zip(position, limits, strict=True))
        ]

    def counted(self, output):
        """How many positions lie in x or in its explicit padding."""
        count = 1
        for reads, i, n, (low, high) in zip(
            self.reads, output, self.spatial, self.sides, strict=True
        ):
            count *= sum(-low <= p < n + high for p in reads[i])
        return count


def max_pool(x, window, **options):
    """Values and flat positions of the first greatest elements; NaN is the greatest."""
    windows = Windows(x.shape[2:], window, **options)
    nothing = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    y = np.full((*x.shape[:2], *windows.sizes), nothing, x.dtype)
    index = np.full(y.shape, -1, np.int32)
    for n, c, *i in np.ndindex(*y.shape):
        for position in windows.elements(i):
            value, best = x[(n, c, *position)], y[(n, c, *i)]
            first = index[(n, c, *i)] < 0
            if first or value > best or (np.isnan(value) and not np.isnan(best)):
                y[(n, c, *i)] = value
                index[(n, c, *i)] = np.ravel_multi_index(position, x.shape[2:])
    return y, index


def avg_pool(x, window, *, count_include_pad=True, divisor_override=None, **options):
    """Means of windows."""
    windows = Windows(x.shape[2:], window, **options)
    y = np.zeros((*x.shape[:2], *windows.sizes), x.dtype)
    for n, c, *i in np.ndindex(*y.shape):
        held = windows.elements(i)
        count = windows.counted(i) if count_include_pad else len(held)
        total = sum(x[(n, c, *position)] for position in held)
        divisor = count if divisor_override is None else divisor_override
        y[(n, c, *i)] = total / divisor if divisor else np.nan
    return y


def lp_pool(x, window, p=2.0, **options):
    """p-norms of windows; nothing is 0."""
    windows = Windows(x.shape[2:], window, **options)
    y = np.zeros((*x.shape[:2], *windows.sizes))
    for n, c, *i in np.ndindex(*y.shape):
        held = [abs(x[(n, c, *position)]) for position in windows.elements(i)]
        if math.isinf(p):
            y[(n, c, *i)] = np.max(held, initial=0)
        else:
            y[(n, c, *i)] = sum(value**p for value in held) ** (1 / p)
    return y


def adaptive_windows(spatial, output):
    """For each output the positions of its window, in row-major order: torch's two formulas."""
    sizes = [n if m is None else m for n, m in zip(spatial, output, strict=True)]
    for i in np.ndindex(*sizes):
        spans = [
            range(math.floor(at * n / m), math.ceil((at + 1) * n / m))
            for at, n, m in zip(i, spatial, sizes, strict=True)
        ]
        yield i, list(itertools.product(*spans))


def adaptive_avg_pool(x, output):
    """Means of the windows that cover x."""
    sizes = [n if m is None else m for n, m in zip(x.shape[2:], output, strict=True)]
    y = np.zeros((*x.shape[:2], *sizes), x.dtype)
    for i, window in adaptive_windows(x.shape[2:], output):
        for n, c in np.ndindex(*x.shape[:2]):
            y[(n, c, *i)] = sum(x[(n, c, *position)] for position in window) / len(window)
    return y


def adaptive_max_pool(x, output):
    """Values and flat positions of the first greatest elements; NaN is the greatest."""
    sizes = [n if m is None else m for n, m in zip(x.shape[2:], output, strict=True)]
    y = np.zeros((*x.shape[:2], *sizes), x.dtype)
    index = np.zeros(y.shape, np.int32)
    for i, window in adaptive_windows(x.shape[2:], output):
        for n, c in np.ndindex(*x.shape[:2]):
            values = [x[(n, c, *position)] for position in window]
            first = int(np.argmax(values))  # NumPy's: the first NaN, else the first greatest
            y[(n, c, *i)] = values[first]
            index[(n, c, *i)] = np.ravel_multi_index(window[first], x.shape[2:])
    return y, index


def max_unpool(y, indices, output):
    """Values written one after the other where their index says."""
    x = np.zeros((*y.shape[:2], math.prod(output)), y.dtype)
    for n, c, *i in np.ndindex(*y.shape):
        if indices[(n, c, *i)] >= 0:
            x[n, c, indices[(n, c, *i)]] = y[(n, c, *i)]
    return x.reshape(*y.shape[:2], *output)


def unfold(x, window, *, stride=1, padding=0, dilation=1):
    """Columns (n, c, a, i), channels first: each window's elements, zeros outside of x."""
    spatial, rank = x.shape[2:], len(window)
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    sides = pairs(padding, spatial, window, stride, dilation)
    sizes = [
        (n + sum(side) - d * (k - 1) - 1) // s + 1
        for n, k, s, d, side in zip(spatial, window, stride, dilation, sides, strict=True)
    ]
    if min(sizes) < 1:
        raise RefusedError
    columns = np.zeros((*x.shape[:2], *window, *sizes), x.dtype)
    for at in np.ndindex(*window, *sizes):
        a, i = at[:rank], at[rank:]
        t = [i[r] * stride[r] + a[r] * dilation[r] - sides[r][0] for r in range(rank)]
        if all(0 <= t[r] < spatial[r] for r in range(rank)):
            columns[(..., *at)] = x[(..., *t)]
    return columns.reshape(*x.shape[:2], math.prod(window), math.prod(sizes))
