"""Unusual calls for `parity.py`: what makes them so, and what our docstrings say of them.

Where one side alone refuses such a call, or both compute it with different values, that is a
decision: `stated` is a piece of the docstring that says so, and `parity.py` fails where it is not
there. Where both refuse, or both compute the same, there is nothing to state.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from parity_calls import Change, View, Windows


class Case(NamedTuple):
    """An unusual call. `differs`: both sides compute it, with other values by decision."""

    change: Change
    stated: str = ""
    differs: bool = False


def change(**entries: Any) -> Change:
    """Set entries of a drawn call, or of its windows; functions are called with the drawn call."""

    def apply(drawn: Any) -> None:
        for key, value in entries.items():
            value = value(drawn) if callable(value) and not isinstance(value, type) else value
            setattr(drawn if hasattr(drawn, key) else drawn.plan, key, value)

    return apply


def all_axes(value: Any) -> Callable[[Any], Any]:
    """The same value for each spatial axis."""
    return lambda drawn: (value,) * drawn.view.rank


def output(size: Any, more: int = 0) -> Callable[[Any], Any]:
    """The same wanted size for each spatial axis, and for `more` that are not there."""
    return lambda drawn: {"output": (size,) * (drawn.view.rank + more)}


def larger(drawn: Any) -> tuple[int, ...]:
    """Spatial sizes with room for what a case does to them."""
    return tuple(n + 3 for n in drawn.plan.spatial)


def first_empty(drawn: Any) -> tuple[int, ...]:
    """No elements along the first spatial axis."""
    return (0, *drawn.plan.spatial[1:])


def moved(by: int) -> Change:
    """An unpooling's positions, all moved by so many."""
    return change(extra=lambda drawn: drawn.extra | {"indices": lambda given: given + by})


def cases(
    changes: dict[str, Change], stated: dict[str, str], differs: Sequence[str] = ()
) -> dict[str, Case]:
    """A table of them, with what is stated of each."""
    unknown = [name for name in (*stated, *differs) if name not in changes]
    if unknown:
        raise KeyError(f"no such cases: {', '.join(unknown)}")
    return {name: Case(do, stated.get(name, ""), name in differs) for name, do in changes.items()}


def without(changes: dict[str, Change], *names: str) -> dict[str, Change]:
    """The others."""
    return {name: do for name, do in changes.items() if name not in names}


def of_rank(rank: int, **entries: Any) -> Change:
    """A call with so many spatial axes."""
    plain = {"view": View(rank), "plan": Windows((5,) * rank, (2,) * rank)}
    return change(**plain, **entries)


def all_nan(_: Any) -> Callable[[np.ndarray], np.ndarray]:
    """NaN everywhere, so that windows hold several of them."""
    return lambda x: np.full_like(x, np.nan)


WINDOWS = {
    "stride 0": change(stride=0),
    "fractional stride": change(stride=1.5),
    "a stride too many": change(stride=lambda drawn: (1,) * (drawn.view.rank + 1)),
    "window without taps": change(window=all_axes(0)),
    "window larger than the input": change(spatial=all_axes(2), window=all_axes(3)),
    "padding as pairs": change(padding=all_axes((0, 0))),
    "padding 'full'": change(padding="full"),
    "negative padding": change(padding=-1, spatial=larger),
    "an unknown padding": change(padding="half"),
    "no channel axis": change(batch=(), channel_axis=False),
    "two batch axes": change(batch=(1, 2)),
    "empty batch": change(batch=(0,)),
    "no channels": change(channels=0),
    "empty spatial axis": change(spatial=first_empty, window=all_axes(2), padding=1),
    "bool": change(dtype=bool),
    "int64": change(dtype=np.int64),
    "int32": change(dtype=np.int32),
    "complex": change(dtype=complex),
}
LAYER = WINDOWS | {
    "dilation 0": change(dilation=0),
    "groups 0": change(groups=0),
    "groups that do not divide": change(channels=4, out_channels=3, groups=2),
    "kernel of other channels": change(more=1),
    "no output channels": change(out_channels=0),
    "bias of another length": change(bias="long"),
    "a bias per pair of channels": change(bias="pairs"),
    "mixed dtypes": change(dtype=np.float32, kernel_dtype=float),
}
POOL = WINDOWS | {
    "padding over half the window": change(window=all_axes(3), padding=2, spatial=larger),
    "padding as large as the window": change(window=all_axes(2), padding=2, spatial=larger),
    "larger than the input, in ceil mode": of_rank(
        2, window=(3, 3), spatial=(2, 2), stride=2, ceil=True
    ),
    "larger than the input, padded": of_rank(2, window=(3, 3), spatial=(2, 2), padding=1),
    "ceil mode 1": change(ceil=1),
}
MAXIMA = POOL | {
    "dilation 0": change(dilation=0),
    "several NaNs": of_rank(2, values=all_nan),
}
ADAPTIVE = {
    name: WINDOWS[name]
    for name in (
        "two batch axes",
        "empty batch",
        "no channels",
        "bool",
        "int64",
        "int32",
        "complex",
    )
} | {
    "empty spatial axis": change(spatial=first_empty),
    "output of size 0": change(extra=output(0)),
    "output of negative size": change(extra=output(-1)),
    "output size None": change(extra=output(None)),
    "an output size too many": change(extra=output(1, more=3)),
    "fractional output size": change(extra=output(1.5)),
}
COLUMNS = WINDOWS | {"not two spatial axes": of_rank(3)}
SIGNAL = {
    "mixed sizes, 'valid'": change(shapes=((3, 2), (2, 3)), mode="valid"),
    "mixed sizes, 'valid', 3-D": change(shapes=((3, 2, 4), (2, 3, 1)), mode="valid"),
    "empty array": change(shapes=((0,), (2,)), mode="full"),
    "empty array, 'same'": change(shapes=((0,), (2,)), mode="same"),
    "four axes": change(shapes=((2,) * 4, (2,) * 4)),
    "no axes": change(shapes=((), ())),
    "other numbers of axes": change(shapes=((3, 2), (2,))),
    "bool": change(dtypes=(bool, bool)),
    "an unknown mode": change(mode="causal"),
}

POOLED = "`(*batch, c, *spatial)`"
NUMBERS = "images of numbers"
NO_BOOL = "an argument of the wrong type or dtype (bool is)"
NO_CHANNELS = "Empty batches and channels give empty results"
AS_CONV = {
    "padding as pairs": "conv: one `(low, high)` pair per axis",
    "padding 'full'": 'conv: `"full"` (`dilation*(k-1)` on both sides)',
    "negative padding": "conv: Negative padding crops.",
}
POOL_STATED = AS_CONV | {
    "padding over half the window": "max_pool: Torch stops at padding of half the window",
    "two batch axes": POOLED,
    "no channels": f"max_pool: {NO_CHANNELS}",
}
FIRST_NAN = "the first of several, where torch takes the last"
MAXIMA_STATED = POOL_STATED | {"several NaNs": f"max_pool: {FIRST_NAN}"}
ADAPTIVE_STATED = {
    "two batch axes": POOLED,
    "no channels": "adaptive_avg_pool: Empty batches, channels and outputs give empty results",
    "output of size 0": "adaptive_avg_pool: Empty batches, channels and outputs give empty results",
    "empty spatial axis": "an empty spatial axis",
    "output size None": "adaptive_avg_pool: or None where an axis stays as it is",
    "int64": "which is for floats alone",
    "int32": "which is for floats alone",
}
COLUMNS_STATED = AS_CONV | {
    "not two spatial axes": "which is for two spatial axes and channels first alone",
    "empty spatial axis": "unfold: Empty axes are taken as in `conv`",
    "no channels": "unfold: Empty axes are taken as in `conv`",
    "bool": NO_BOOL,
    "int64": f"unfold: {NUMBERS}",
    "int32": f"unfold: {NUMBERS}",
}
SIGNAL_STATED = {
    "empty array, 'same'": "an empty array",
    "four axes": "an array of 1 to 3 axes",
    "no axes": "an array of 1 to 3 axes",
    "bool": NO_BOOL,
}

CASES: dict[str, dict[str, Case]] = {
    "conv": cases(
        LAYER
        | {
            "'same' with a stride": change(padding="same", stride=2),
            "'reflect' of the input's size": change(
                mode="reflect", padding=2, spatial=all_axes(2), window=all_axes(2)
            ),
            "'circular' beyond the input's size": change(
                mode="circular", padding=3, spatial=all_axes(2), window=all_axes(2)
            ),
            "an unknown padding mode": change(mode="symmetric"),
        },
        AS_CONV
        | {
            "'same' with a stride": '`"same"` (output `ceil(n / stride)`',
            "a bias per pair of channels": "one for each pair of channels",
            "mixed dtypes": "promoted as `jax.numpy` does",
            "two batch axes": "Any number of batch axes",
            "no channels": "without input channels it returns no output channels",
            "no output channels": "Empty axes are taken, and a sum over nothing is 0",
            "empty spatial axis": "Empty axes are taken, and a sum over nothing is 0",
        },
        differs=("no channels",),
    ),
    "conv_transpose": cases(
        without(LAYER, "window larger than the input", "a bias per pair of channels")
        | {
            "padding 'full'": change(padding="full", spatial=all_axes(6)),
            "groups that do not divide": change(channels=3, out_channels=4, groups=2),
            "output of size 0": change(window=all_axes(2), spatial=all_axes(1), padding=1),
            "padding larger than the output": change(
                window=all_axes(2), spatial=all_axes(1), padding=2
            ),
            "output_padding of the stride": change(output_padding=3, stride=3),
            "output_padding below the dilation": change(output_padding=1, stride=1, dilation=2),
            "negative output_padding": change(output_padding=-1, stride=2),
        },
        {
            "padding as pairs": "`conv`'s padding, which the adjoint crops, given as there.",
            "padding 'full'": "other names are the adjoints of those paddings",
            "negative padding": "Negative padding adds zeros.",
            "output of size 0": "Where torch refuses an output of size 0, it is returned.",
            "mixed dtypes": "conv: promoted as `jax.numpy` does",
            "two batch axes": "`(*batch, c_o, *spatial)`",
            "no channels": "Empty batches and channels are taken as in `conv`",
            "no output channels": "Empty batches and channels are taken as in `conv`",
            "int32": "conv: integers are exact and wrap on overflow",
        },
    ),
    "max_pool": cases(
        MAXIMA,
        MAXIMA_STATED | {"empty spatial axis": "A window that holds no element of x gives -inf"},
        differs=("several NaNs",),
    ),
    "min_pool": cases(
        MAXIMA,
        MAXIMA_STATED | {"empty spatial axis": "A window that holds no element of x gives inf"},
        differs=("several NaNs",),
    ),
    "avg_pool": cases(
        POOL
        | {
            "divisor_override 0": change(extra={"divisor_override": 0}),
            "divisor_override in 1-D": of_rank(1, extra={"divisor_override": 3}),
            "larger than the input, padded, 3-D": of_rank(
                3, window=(3, 3, 3), spatial=(2, 2, 2), padding=1
            ),
        },
        POOL_STATED
        | {
            "empty spatial axis": "A window that holds no element of x gives 0",
            "int64": "torch truncates the means of int64 and refuses other integers",
            "int32": "torch truncates the means of int64 and refuses other integers",
            "complex": "Floats and complex numbers keep their dtype",
            "divisor_override in 1-D": "torch has none in 1-D",
            "larger than the input, padded, 3-D": "torch's 3-D pool counts no padding there",
        },
        differs=("int64",),
    ),
    "lp_pool": cases(
        without(
            POOL,
            *(name for name in POOL if "padding" in name or "padded" in name),
            "empty spatial axis",
        )
        | {
            "p = 0": change(extra={"p": 0}),
            "p < 0": change(extra={"p": -1}),
            "p < 1": change(extra={"p": 0.5}),
            "p infinite": change(extra={"p": math.inf}),
            "negative numbers, odd p": change(extra={"p": 3, "signs": True}),
            "windows of zeros, p = 2": change(extra={"p": 2, "scale": 0}),
            "windows of zeros, p = 3": change(extra={"p": 3, "scale": 0}),
            "a part of a window, in ceil mode": change(
                window=all_axes(2), stride=2, spatial=all_axes(5), ceil=True, extra={"p": 3}
            ),
        },
        {
            "two batch axes": POOLED,
            "no channels": f"max_pool: {NO_CHANNELS}",
            "bool": "(bool and complex numbers are)",
            "int64": "integers give JAX's default float",
            "int32": "integers give JAX's default float",
            "p < 0": "a number above 0",
            "negative numbers, odd p": "which leaves out the magnitude",
            "windows of zeros, p = 2": "may give NaN to derivatives of windows of zeros",
            "windows of zeros, p = 3": "may give NaN to derivatives of windows of zeros",
            "a part of a window, in ceil mode": "scales the last windows of `ceil_mode` up",
            "larger than the input, in ceil mode": "scales the last windows of `ceil_mode` up",
        },
        differs=(
            "int64",
            "int32",
            "negative numbers, odd p",
            "windows of zeros, p = 2",
            "windows of zeros, p = 3",
            "a part of a window, in ceil mode",
            "larger than the input, in ceil mode",
        ),
    ),
    "adaptive_avg_pool": cases(
        ADAPTIVE, ADAPTIVE_STATED | {"complex": "which is for floats alone"}
    ),
    "adaptive_max_pool": cases(
        ADAPTIVE | {"several NaNs": of_rank(2, values=all_nan, extra={"output": (2, 2)})},
        ADAPTIVE_STATED | {"several NaNs": FIRST_NAN},
        differs=("several NaNs",),
    ),
    "max_unpool": cases(
        {
            name: WINDOWS[name]
            for name in ("two batch axes", "empty batch", "no channels", "int64", "complex")
        }
        | {
            "an index beyond the output": moved(10**4),
            "a negative index": moved(-(10**4)),
            "indices of another shape": change(
                extra=lambda drawn: drawn.extra | {"indices": lambda given: given[..., :0]}
            ),
            "an output far from the pool's": change(extra=output(12)),
            "an output size too many": change(extra=output(9, more=3)),
        },
        {
            "two batch axes": "it is for floats and one batch axis alone",
            "int64": "it is for floats and one batch axis alone",
            "complex": "it is for floats and one batch axis alone",
            "no channels": NO_CHANNELS,
            "an output far from the pool's": "takes window and stride as well to guess a size from",
        },
    ),
    "unfold": cases(COLUMNS, COLUMNS_STATED | {"two batch axes": POOLED}),
    "fold": cases(
        without(COLUMNS, "no channel axis", "window larger than the input")
        | {
            "a column too few": change(extra={"length": -1}),
            "a row too many": change(extra={"rows": 1}, window=all_axes(2)),
        },
        COLUMNS_STATED | {"two batch axes": "`(*batch, c * prod(window), L)`"},
    ),
    "correlate": cases(SIGNAL, SIGNAL_STATED),
    "convolve": cases(SIGNAL, SIGNAL_STATED),
}
