"""Every public function with every option: its derivatives, proved by `jaxconv.verify`.

    python experiments/verify_gradients.py [--only conv] [--order 2]

One row for each option of each function, on small seeded arrays in float64. The columns are the
largest relative errors of

    closed form    `jaxconv.gradients`, or the notes' formula in other public functions, against
                   reverse mode in every entry and against differences
    forward        J v against Richardson-extrapolated central differences
    reverse        J'u against the same
    adjoint        <J v, u> = <v, J'u>
    2nd order      forward over reverse, reverse over reverse and reverse over forward against
                   differences of the gradient (and so on, up to --order)

`-` where there is no closed form. Kinks are ties and corners, at which any slope between the two
sides is right.

Exit code: 0 if every row is ok, 1 if one is not, 2 for a function that there is none of.
"""

import argparse
import functools
import sys
import zlib
from collections.abc import Callable, Iterator
from platform import python_version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jaxconv as jc
from jaxconv import gradients
from jaxconv.verify import Report, check_gradients

WIDTH = 120  # of the table where it does not go to a terminal
COLUMNS = ("closed form", "forward", "reverse", "adjoint", "order")


class Case(NamedTuple):
    """One row: a function, the arrays it is differentiated by, and its other arguments."""

    function: str
    option: str
    arrays: tuple[Any, ...]
    static: dict[str, Any]  # arguments without a derivative and without a default
    options: dict[str, Any]
    closed_form: Callable[..., Any] | None = None
    in_parts: bool = False  # the arrays are real parts, each with its imaginary one behind it

    @property
    def fn(self) -> Callable[..., Any]:
        """The function of the arrays alone."""
        module, _, name = self.function.rpartition(".")
        home = getattr(jc, module) if module else jc
        fn = functools.partial(getattr(home, name), **self.static, **self.options)
        return _of_parts(fn) if self.in_parts else fn


def _of_parts(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of complex arrays as one of twice as many real arrays."""

    def parts(*arrays: Any) -> Any:
        out = fn(*(re + 1j * im for re, im in zip(arrays[::2], arrays[1::2], strict=True)))
        return jnp.stack([out.real, out.imag])

    return parts


def draw(*shape: int, seed: str = "") -> np.ndarray:
    """Seeded normal numbers, other ones for each shape and seed."""
    return np.random.default_rng(zlib.crc32(f"{shape}{seed}".encode())).normal(size=shape)


# Convolutions.

IMAGE, KERNEL = (2, 2, 5, 6), (3, 2, 3, 2)
LAST_IMAGE, LAST_KERNEL = (2, 5, 6, 2), (3, 2, 2, 3)
#: `conv`: the shapes of image and kernel, and the options.
CONV = {
    "plain": (IMAGE, KERNEL, {}),
    "no batch": (IMAGE[1:], KERNEL, {}),
    "two batch axes": ((2, *IMAGE[:1], 2, 4, 3), (2, 2, 2, 2), {}),
    "1x1": ((2, 3, 2, 3), (2, 3, 1, 1), {}),
    "1-D": ((2, 2, 7), (3, 2, 3), {"stride": 2, "padding": 1}),
    "3-D": ((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"padding": 1, "stride": (1, 2, 1)}),
    "stride 2": (IMAGE, KERNEL, {"stride": 2}),
    "stride (2, 3)": (IMAGE, KERNEL, {"stride": (2, 3)}),
    "stride over window": ((1, 2, 7, 6), (2, 2, 2, 1), {"stride": 3}),
    "unused tail": ((1, 2, 8), (2, 2, 2), {"stride": 4}),
    "padding 1": (IMAGE, KERNEL, {"padding": 1}),
    "padding per axis": (IMAGE, KERNEL, {"padding": (2, 1)}),
    "padding per side": (IMAGE, KERNEL, {"padding": ((2, 0), (1, 3))}),
    "padding negative": (IMAGE, (2, 2, 2, 2), {"padding": ((-1, 1), (2, -2)), "stride": 2}),
    "padding over window": ((1, 1, 3, 3), (2, 1, 2, 2), {"padding": 4, "stride": 2}),
    "padding valid": (IMAGE, KERNEL, {"padding": "valid"}),
    "padding same": (IMAGE, KERNEL, {"padding": "same", "stride": 2}),
    "padding same_lower": (IMAGE, KERNEL, {"padding": "same_lower", "stride": (1, 2)}),
    "padding full": (IMAGE, KERNEL, {"padding": "full"}),
    "padding causal": ((2, 2, 6), (3, 2, 3), {"padding": "causal", "dilation": 2}),
    "dilation 2": (IMAGE, KERNEL, {"dilation": 2}),
    "dilation, stride": ((1, 2, 9, 8), KERNEL, {"dilation": (2, 3), "stride": 3, "padding": 2}),
    "groups 2": ((2, 4, 5, 4), (6, 2, 2, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 3, 5, 4), (3, 1, 3, 2), {"groups": 3, "stride": 2}),
    "depth multiplier 2": ((1, 3, 5, 4), (6, 1, 2, 2), {"groups": 3, "dilation": 2}),
    "reflect": (IMAGE, KERNEL, {"padding": ((2, 1), (0, 3)), "padding_mode": "reflect"}),
    "replicate": (IMAGE, KERNEL, {"padding": 2, "padding_mode": "replicate", "stride": 2}),
    "circular": (IMAGE, KERNEL, {"padding": "same", "padding_mode": "circular"}),
    "circular, cropped": (IMAGE, KERNEL, {"padding": ((-1, 3),) * 2, "padding_mode": "circular"}),
    "layout NHWC": (LAST_IMAGE, LAST_KERNEL, {"layout": "NHWC", "stride": 2, "padding": 1}),
    "layout NHWC, groups": ((1, 4, 4, 4), (2, 2, 2, 6), {"layout": "NHWC", "groups": 2}),
    "layout NWC": ((2, 7, 2), (3, 2, 3), {"layout": "NWC", "dilation": 2}),
    "layout NDHWC": ((1, 3, 3, 4, 2), (2, 2, 2, 2, 2), {"layout": "NDHWC", "padding": "same"}),
    "precision": (IMAGE, KERNEL, {"precision": "highest"}),
    "float64 asked for": (IMAGE, KERNEL, {"preferred_element_type": "float64"}),
    "algorithm direct": (IMAGE, KERNEL, {"algorithm": "direct", "stride": 2}),
    "empty batch": ((0, 2, 4, 4), (2, 2, 2, 2), {}),
    "empty channels": ((1, 0, 4, 4), (2, 0, 2, 2), {}),
}  # fmt: skip


def conv_closed_form(options: dict[str, Any]) -> Callable[..., Any]:
    """dX, dW and, if there is a bias, dB from `jaxconv.gradients`."""
    layout = options.get("layout")

    def closed_form(x: Any, kernel: Any, *rest: Any) -> tuple[Any, ...]:
        *bias, dy = rest
        dx = gradients.conv_input_grad(dy, kernel, x.shape, **options)
        dw = gradients.conv_kernel_grad(x, dy, kernel.shape, **options)
        db = [gradients.conv_bias_grad(dy, layout=layout) for _ in bias]
        # One bias for each pair of channels: every input channel gets the output channel's sum.
        pairs = [
            jnp.broadcast_to(g[:, None], b.shape) if b.ndim == 2 else g
            for g, b in zip(db, bias, strict=True)
        ]
        return dx, dw, *pairs

    return closed_form


def conv_cases() -> Iterator[Case]:
    for option, (image, kernel, options) in CONV.items():
        arrays = draw(*image), draw(*kernel, seed="kernel")
        yield Case("conv", option, arrays, {}, options, conv_closed_form(options))
    for option, bias in {"bias": (3,), "bias per pair": (3, 2)}.items():
        for layout, image, kernel in ((None, IMAGE, KERNEL), ("NHWC", LAST_IMAGE, LAST_KERNEL)):
            arrays = draw(*image), draw(*kernel, seed="kernel"), draw(*bias, seed="bias")
            options = {"layout": layout, "padding": 1}
            named = f"{option}, {layout}" if layout else option
            yield Case("conv", named, arrays, {}, options, conv_closed_form(options))
    parts = [draw(*shape, seed=part) for shape in (IMAGE, KERNEL) for part in ("re", "im")]
    yield Case("conv", "complex", tuple(parts), {}, {"stride": 2}, in_parts=True)


Y, TRANSPOSED = (2, 3, 3, 4), (3, 2, 3, 2)
TRANSPOSE = {
    "plain": (Y, TRANSPOSED, {}),
    "no batch": (Y[1:], TRANSPOSED, {}),
    "1-D": ((1, 2, 4), (2, 3, 3), {"stride": 2}),
    "3-D": ((1, 2, 2, 3, 2), (2, 2, 2, 2, 1), {"stride": (1, 2, 2)}),
    "stride (2, 3)": (Y, TRANSPOSED, {"stride": (2, 3)}),
    "padding 1": (Y, TRANSPOSED, {"padding": 1, "stride": 2}),
    "padding per side": (Y, TRANSPOSED, {"padding": ((0, 2), (1, 0))}),
    "padding negative": (Y, TRANSPOSED, {"padding": ((-2, 1), (0, -1)), "stride": 2}),
    "padding valid": (Y, TRANSPOSED, {"padding": "valid", "stride": 2}),
    "padding same": (Y, TRANSPOSED, {"padding": "same", "stride": (2, 3)}),
    "padding same_lower": (Y, TRANSPOSED, {"padding": "same_lower"}),
    "padding full": ((1, 2, 5, 4), (2, 2, 3, 2), {"padding": "full"}),
    "padding causal": ((1, 2, 5), (2, 2, 3), {"padding": "causal", "dilation": 2}),
    "output_padding": (Y, TRANSPOSED, {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    "output_padding, dilation": (Y, TRANSPOSED, {"dilation": 3, "output_padding": (2, 1)}),
    "dilation 2": (Y, TRANSPOSED, {"dilation": 2}),
    "groups 2": ((1, 6, 3, 4), (6, 2, 3, 2), {"groups": 2, "stride": 2}),
    "depthwise": ((1, 3, 3, 3), (3, 1, 2, 2), {"groups": 3, "stride": 2}),
    "layout NHWC": ((2, 3, 4, 3), (3, 2, 2, 3), {"layout": "NHWC", "stride": 2}),
    "precision": (Y, TRANSPOSED, {"precision": "highest"}),
    "float64 asked for": (Y, TRANSPOSED, {"preferred_element_type": "float64"}),
    "algorithm direct": (Y, TRANSPOSED, {"algorithm": "direct"}),
}  # fmt: skip


def transpose_closed_form(options: dict[str, Any]) -> Callable[..., Any] | None:
    """The adjoint's gradients: dY is `conv` itself, and dW that of `conv`, the images exchanged.

    Only where the padding is given in numbers, which mean the same to both; and where no output
    padding goes beyond the stride, as dilation allows, which `conv` would read one window more of.
    """
    forward = {name: value for name, value in options.items() if name != "output_padding"}
    if isinstance(options.get("padding", 0), str) or {"dilation", "output_padding"} <= set(options):
        return None

    def closed_form(y: Any, kernel: Any, *rest: Any) -> tuple[Any, ...]:
        *bias, dx = rest
        dw = gradients.conv_kernel_grad(dx, y, kernel.shape, **forward)
        db = [gradients.conv_bias_grad(dx, layout=options.get("layout")) for _ in bias]
        return jc.conv(dx, kernel, **forward), dw, *db

    return closed_form


def transpose_cases() -> Iterator[Case]:
    for option, (y, kernel, options) in TRANSPOSE.items():
        arrays = draw(*y), draw(*kernel, seed="kernel")
        yield Case("conv_transpose", option, arrays, {}, options, transpose_closed_form(options))
    arrays = draw(*Y), draw(*TRANSPOSED, seed="kernel"), draw(2, seed="bias")
    yield Case("conv_transpose", "bias", arrays, {}, {}, transpose_closed_form({}))


# Pools.

#: Options that every pool takes: the image's shape, the window, the options.
POOL = {
    "plain": ((2, 2, 5, 6), (2, 3), {}),
    "no batch": ((2, 4, 5), (2, 2), {}),
    "1-D": ((2, 2, 7), (3,), {}),
    "3-D": ((1, 2, 3, 4, 4), (2, 2, 3), {"stride": 1}),
    "stride 1": ((1, 2, 4, 5), (2, 2), {"stride": 1}),
    "stride (1, 2)": ((1, 2, 5, 6), (3, 3), {"stride": (1, 2)}),
    "stride over window": ((1, 2, 7, 6), (2, 1), {"stride": 3}),
    "padding 1": ((1, 2, 5, 5), (3, 2), {"padding": 1, "stride": 2}),
    "padding per side": ((1, 2, 4, 5), (3, 3), {"padding": ((2, 0), (1, 2)), "stride": 1}),
    "padding over half": ((1, 2, 3, 4), (3, 2), {"padding": (2, 1)}),
    "padding negative": ((1, 2, 6, 7), (2, 3), {"padding": ((-2, 1), (1, -1)), "stride": 1}),
    "padding same": ((1, 2, 5, 4), (2, 3), {"padding": "same", "stride": 2}),
    "padding causal": ((2, 2, 5), (3,), {"padding": "causal", "stride": 1}),
    "dilation 2": ((1, 2, 6, 5), (3, 2), {"dilation": (2, 3), "stride": 1}),
    "dilation, padding": ((1, 2, 5, 5), (2, 2), {"dilation": 2, "padding": 1, "stride": 2}),
    "ceil_mode": ((1, 2, 5, 7), (2, 3), {"ceil_mode": True}),
    "ceil_mode, padding": ((1, 2, 5, 6), (3, 2), {"ceil_mode": True, "padding": 1, "stride": 2}),
    "layout NHWC": ((2, 4, 5, 2), (2, 2), {"layout": "NHWC", "padding": 1}),
    "layout NWC": ((2, 5, 2), (2,), {"layout": "NWC", "stride": 1}),
}  # fmt: skip
AVERAGES = {
    "count_include_pad no": ((1, 2, 5, 4), (3, 2), {"padding": 1, "count_include_pad": False}),
    "counts, ceil_mode": (
        (1, 2, 5, 6), (3, 2),
        {"padding": 1, "count_include_pad": False, "ceil_mode": True, "stride": 2},
    ),
    "divisor_override": ((1, 2, 4, 5), (2, 2), {"divisor_override": 3, "padding": 1}),
    "divisor_override < 0": ((1, 2, 4, 5), (2, 2), {"divisor_override": -2}),
}  # fmt: skip
#: A tied image, whose maxima and minima have several places.
TIES = np.array([[1.0, 3.0, 3.0, 0.0], [3.0, 2.0, 0.0, 0.0], [5.0, 5.0, 1.0, 2.0]])[None]


def pool_closed_form(name: str, window: Any, options: dict[str, Any]) -> Callable[..., Any] | None:
    """The notes' up(), for the three pools that they have."""
    kept = {key: value for key, value in options.items() if key != "return_indices"}
    return {
        "max_pool": lambda x, dy: gradients.max_pool_grad(x, _values(dy), window, **kept),
        "min_pool": lambda x, dy: gradients.max_pool_grad(-x, dy, window, **kept),
        "avg_pool": lambda x, dy: gradients.avg_pool_grad(dy, x.shape, window, **kept),
    }.get(name)


def _values(dy: Any) -> Any:
    """The cotangent of a pool's values; that of their positions is nothing."""
    return dy[0] if isinstance(dy, tuple) else dy


def pool_cases() -> Iterator[Case]:
    for name in ("max_pool", "min_pool", "avg_pool", "lp_pool"):
        table = {**POOL, **AVERAGES} if name == "avg_pool" else POOL
        for option, (image, window, options) in table.items():
            closed_form = pool_closed_form(name, window, options)
            yield Case(name, option, (draw(*image),), {"window": window}, options, closed_form)
    for name in ("max_pool", "min_pool"):
        closed_form = pool_closed_form(name, (2, 2), {"stride": 1})
        yield Case(name, "ties", (TIES,), {"window": (2, 2)}, {"stride": 1}, closed_form)
    options = {"return_indices": True}
    closed_form = pool_closed_form("max_pool", (2, 2), options)
    arrays = (draw(1, 2, 4, 5),)
    yield Case("max_pool", "return_indices", arrays, {"window": (2, 2)}, options, closed_form)
    for p in (1.0, 3.0, 2.5, np.inf):
        yield Case("lp_pool", f"p = {p:g}", arrays, {"window": (2, 2), "p": p}, {"stride": 1})
    yield Case("lp_pool", "all-zero window", (TIES,), {"window": (2, 2)}, {"stride": (1, 2)})


# Adaptive pools, unpooling, columns.

ADAPTIVE = {
    "plain": ((2, 2, 5, 7), (2, 3), {}),
    "1-D": ((2, 2, 7), (3,), {}),
    "3-D": ((1, 2, 3, 4, 3), (2, 2, 1), {}),
    "no batch": ((2, 4, 4), (3, 2), {}),
    "None keeps": ((1, 2, 4, 5), (None, 2), {}),
    "larger output": ((1, 2, 3, 2), (4, 3), {}),
    "layout NHWC": ((1, 4, 5, 2), (2, 2), {"layout": "NHWC"}),
}
UNPOOL: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": ((2, 2, 4, 6), {}),
    "no batch": ((2, 4, 4), {}),
    "layout NHWC": ((1, 4, 4, 2), {"layout": "NHWC"}),
}
COLUMNS_OF = {
    "plain": ((2, 2, 4, 5), (2, 3), {}),
    "no batch": ((2, 4, 4), (2, 2), {}),
    "1-D": ((2, 2, 6), (3,), {}),
    "3-D": ((1, 2, 3, 3, 3), (2, 2, 2), {}),
    "stride 2": ((1, 2, 5, 6), (2, 2), {"stride": (2, 3)}),
    "padding 1": ((1, 2, 4, 4), (3, 2), {"padding": 1, "stride": 2}),
    "dilation 2": ((1, 2, 5, 5), (2, 2), {"dilation": 2}),
    "layout NHWC": ((1, 4, 5, 2), (2, 2), {"layout": "NHWC", "padding": 1}),
}


def column_cases() -> Iterator[Case]:
    for name in ("adaptive_avg_pool", "adaptive_max_pool"):
        for option, (image, shape, options) in ADAPTIVE.items():
            yield Case(name, option, (draw(*image),), {"output_shape": shape}, options)
    static = {"output_shape": (2, 2)}
    arrays = (draw(1, 2, 4, 5),)
    yield Case("adaptive_max_pool", "return_indices", arrays, static, {"return_indices": True})
    yield Case("adaptive_max_pool", "ties", (TIES,), static, {})
    for option, (image, options) in UNPOOL.items():
        y, indices = jc.max_pool(draw(*image), (2, 2), return_indices=True, **options)
        static = {"indices": indices, "output_shape": image[-3:-1] if options else image[-2:]}
        yield Case(
            "max_unpool", option, (np.asarray(y),), static, options, _picked(indices, bool(options))
        )
    for option, (image, window, options) in COLUMNS_OF.items():
        yield from _unfold_and_fold(option, image, window, options)


def _picked(indices: Any, last: bool) -> Callable[..., Any]:
    """Unpooling's gradient: each value's is what arrives where it was put."""

    def closed_form(y: Any, dy: Any) -> Any:
        at, error = (jnp.moveaxis(a, -1, -3) if last else a for a in (indices, dy))
        planes, flat = (jnp.reshape(a, (*a.shape[:-2], -1)) for a in (error, at))
        picked = jnp.take_along_axis(planes, flat, -1).reshape(at.shape)
        return jnp.moveaxis(picked, -3, -1) if last else picked

    return closed_form


def _unfold_and_fold(
    option: str, image: Any, window: Any, options: dict[str, Any]
) -> Iterator[Case]:
    """Each is the other's adjoint, and so the other's gradient."""
    rank = len(window)
    spatial = image[-rank - 1 : -1] if "layout" in options else image[-rank:]
    unfold = functools.partial(jc.unfold, window=window, **options)
    fold = functools.partial(jc.fold, output_shape=spatial, window=window, **options)
    x = draw(*image)
    columns = draw(*jax.eval_shape(unfold, x).shape)
    yield Case("unfold", option, (x,), {"window": window}, options, lambda x, dy: fold(dy))
    static = {"output_shape": spatial, "window": window}
    yield Case("fold", option, (columns,), static, options, lambda c, dy: unfold(dy))


# Plain correlations, the notes' functions, filters.


def signal_cases() -> Iterator[Case]:
    for name in ("correlate", "convolve"):
        for option, shapes, mode in (
            ("1-D, full", ((6,), (3,)), "full"),
            ("1-D, same", ((6,), (3,)), "same"),
            ("1-D, valid", ((6,), (3,)), "valid"),
            ("2-D, full", ((4, 5), (2, 3)), "full"),
            ("2-D, same", ((4, 5), (3, 2)), "same"),
            ("2-D, valid", ((4, 5), (2, 3)), "valid"),
            ("3-D, same", ((3, 4, 3), (2, 2, 3)), "same"),
            ("second larger", ((3,), (6,)), "full"),
        ):
            arrays = draw(*shapes[0]), draw(*shapes[1], seed="second")
            closed_form = VALID[name] if mode == "valid" else None
            yield Case(name, option, arrays, {"mode": mode}, {}, closed_form)
        yield Case(name, "1-D, complex", COMPLEX, {"mode": "same"}, {}, in_parts=True)


#: For Y = corr(X, K): dX is the full convolution of dY with K, dK = corr(X, dY). For the true
#: convolution K stands rotated.
VALID = {
    "correlate": lambda x, k, dy: (jc.convolve(dy, k, "full"), jc.correlate(x, dy, "valid")),
    "convolve": lambda x, k, dy: (
        jc.correlate(dy, k, "full"),
        jnp.flip(jc.correlate(x, dy, "valid")),
    ),
}


#: Real and imaginary parts of both: nothing is conjugated but by `correlate`.
COMPLEX = tuple(draw(*shape, seed=part) for shape in ((6,), (3,)) for part in ("re", "im"))


def notes_cases() -> Iterator[Case]:
    yield Case(
        "corr2d", "plain", (draw(4, 5), draw(2, 3)), {}, {},
        lambda X, K, dy: (jc.convolve(dy, K), jc.corr2d(X, dy)),
    )  # fmt: skip
    yield Case(
        "corr2d_multi_in", "plain", (draw(2, 4, 5), draw(2, 2, 3)), {}, {},
        lambda X, K, dy: (
            jnp.stack([jc.convolve(dy, k) for k in K]),
            jnp.stack([jc.corr2d(x, dy) for x in X]),
        ),
    )  # fmt: skip
    for name, kernel in (
        ("corr2d_multi_in_out", (3, 2, 2, 3)),
        ("corr2d_multi_in_out_1x1", (3, 2, 1, 1)),
    ):
        yield Case(name, "plain", (draw(2, 4, 5), draw(*kernel)), {}, {}, conv_closed_form({}))
    for mode in ("max", "avg"):
        closed_form = pool_closed_form(f"{mode}_pool", (2, 3), {"stride": 1})
        static = {"pool_size": (2, 3), "mode": mode}
        yield Case("pool2d", mode, (draw(4, 5),), static, {}, _of_a_plane(closed_form))


def _of_a_plane(closed_form: Any) -> Callable[..., Any]:
    """The notes pool single planes; ours want a channel axis."""
    return lambda X, dy: closed_form(X[None], dy[None])[0]


def filter_cases() -> Iterator[Case]:
    for option, image, kernel, options in (
        ("plain", (4, 5), (3, 3), {}),
        ("channels", (2, 4, 4), (3, 2), {}),
        ("batch", (2, 2, 4, 4), (2, 3), {}),
        ("1-D", (6,), (3,), {}),
        ("3-D", (3, 4, 3), (2, 3, 2), {}),
        ("replicate", (4, 5), (3, 3), {"padding_mode": "replicate"}),
        ("circular", (4, 5), (3, 3), {"padding_mode": "circular"}),
        ("zeros", (4, 5), (3, 3), {"padding_mode": "zeros"}),
        ("layout NHWC", (1, 4, 5, 2), (3, 3), {"layout": "NHWC"}),
    ):
        arrays = draw(*image), draw(*kernel, seed="kernel")
        yield Case("filters.apply", option, arrays, {}, options)


# The closed forms are public functions too, and have derivatives themselves.

BILINEAR = {
    "plain": (IMAGE, KERNEL, {}),
    "stride, padding": (IMAGE, KERNEL, {"stride": 2, "padding": ((2, 0), (1, 3))}),
    "groups, dilation": ((1, 4, 5, 6), (4, 2, 2, 3), {"groups": 2, "dilation": 2}),
    "reflect": (IMAGE, KERNEL, {"padding": 1, "padding_mode": "reflect"}),
    "layout NHWC": (LAST_IMAGE, LAST_KERNEL, {"layout": "NHWC", "padding": "same"}),
}
POOLED = {
    "plain": {},
    "padding, stride": {"padding": 1, "stride": 1},
    "dilation": {"dilation": 2},
    "ceil_mode": {"ceil_mode": True},
    "layout NHWC": {"layout": "NHWC"},
}


def gradient_cases() -> Iterator[Case]:
    for option, (image, kernel, options) in BILINEAR.items():
        x, w = draw(*image), draw(*kernel, seed="kernel")
        forward = functools.partial(jc.conv, **options)
        dy = draw(*jax.eval_shape(forward, x, w).shape, seed="dy")
        to_kernel = functools.partial(gradients.conv_kernel_grad, kernel_shape=kernel, **options)
        to_image = functools.partial(gradients.conv_input_grad, x_shape=image, **options)
        # <conv(x, w), dy> is linear in each: leaving out another one is each one's gradient.
        yield Case(
            "gradients.conv_kernel_grad", option, (x, dy), {"kernel_shape": kernel}, options,
            lambda x, dy, w, image=to_image, forward=forward: (image(dy, w), forward(x, w)),
        )  # fmt: skip
        yield Case(
            "gradients.conv_input_grad", option, (dy, w), {"x_shape": image}, options,
            lambda dy, w, x, kernel=to_kernel, forward=forward: (forward(x, w), kernel(x, dy)),
        )  # fmt: skip
    for layout, shape in ((None, (2, 3, 2, 2)), ("NHWC", (2, 2, 2, 3))):
        options = {"layout": layout}
        yield Case("gradients.conv_bias_grad", f"layout {layout}", (draw(*shape),), {}, options)
    for option, options in POOLED.items():
        image, window = (1, 4, 5, 4), (2, 2)
        x = draw(*image)
        dy = draw(
            *jax.eval_shape(functools.partial(jc.max_pool, window=window, **options), x).shape
        )
        static = {"x_shape": image, "window": window}
        average = functools.partial(jc.avg_pool, window=window, **options)
        yield Case(
            "gradients.avg_pool_grad", option, (dy,), static, options,
            lambda dy, x, average=average: average(x),
        )  # fmt: skip
        yield Case("gradients.max_pool_grad", option, (x, dy), {"window": window}, options)


# The table.


def all_cases() -> list[Case]:
    """Every row of the table."""
    parts = (
        conv_cases,
        transpose_cases,
        pool_cases,
        column_cases,
        signal_cases,
        notes_cases,
        filter_cases,
        gradient_cases,
    )
    with jax.enable_x64(True):
        cases = [case for part in parts for case in part()]
    functions = list(dict.fromkeys(case.function for case in cases))
    return sorted(cases, key=lambda case: functions.index(case.function))


class Row(NamedTuple):
    """A case and what was found."""

    case: Case
    report: Report

    @property
    def cells(self) -> list[str]:
        """The table's line."""
        errors = [self._error(check) for check in COLUMNS]
        kinks = str(len(self.report.kinks) or "")
        return [self.case.function, self.case.option, *errors, kinks, self.verdict]

    @property
    def verdict(self) -> str:
        """ok, or not."""
        return "ok" if self.report.ok else "WRONG"

    def _error(self, check: str) -> str:
        found = [row.error for row in self.report.rows if row.check.startswith(check)]
        return f"{max(found):.1e}" if found else "-"


def check(case: Case, order: int) -> Row:
    """All derivatives of a case."""
    return Row(
        case, check_gradients(case.fn, case.arrays, closed_form=case.closed_form, order=order)
    )


def print_table(console: Console, rows: list[Row], order: int) -> None:
    """One line for each case, and below what is wrong with those that are."""
    edge = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=edge, pad_edge=False)
    for name in ("function", "option"):
        table.add_column(name, no_wrap=True)
    last = f"orders 2-{order}" if order > 2 else "2nd order"
    for name in (*COLUMNS[:-1], last, "kinks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        table.add_row(*row.cells, style=None if row.report.ok else "bold red")
    console.print(table, highlight=False)
    for row in rows:
        if not row.report.ok:
            console.print(f"\n{row.case.function}, {row.case.option}", highlight=False)
            console.print(str(row.report), highlight=False, markup=False, soft_wrap=True)


def summary(rows: list[Row]) -> str:
    """The last line."""
    wrong = sum(not row.report.ok for row in rows)
    compared = sum(line.compared for row in rows for line in row.report.rows)
    closed = sum(row.case.closed_form is not None for row in rows)
    functions = len({row.case.function for row in rows})
    return (
        f"{len(rows)} cases of {functions} functions, {closed} with a closed form; {compared} "
        f"comparisons, largest error {max(row.report.max_error for row in rows):.1e}; {wrong} wrong"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the cases and print the table; returns the exit code."""
    args = _parser().parse_args(argv)
    cases = [case for case in all_cases() if args.only in (None, case.function)]
    if not cases:
        print(f"verify_gradients: --only: no function {args.only!r}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH, no_color=True)
    print(f"jax {jax.__version__}, Python {python_version()}, {jax.default_backend()}, float64")
    hidden, rows = not (sys.stdout.isatty() and sys.stderr.isatty()), []
    with Progress(console=Console(stderr=True), disable=hidden, transient=True) as progress:
        for case in progress.track(cases, description="checking"):
            rows.append(check(case, args.order))
    print_table(console, rows, args.order)
    print(f"\n{summary(rows)}")
    return 0 if all(row.report.ok for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="verify_gradients", description=text)
    parser.add_argument("--only", metavar="NAME", help="one function, as filters.apply")
    parser.add_argument("--order", type=int, default=2, choices=(1, 2, 3), help="default: 2")
    return parser


if __name__ == "__main__":
    sys.exit(main())
