"""The README's tables: every row evaluated, both cells on the same numbers."""

import ast
import doctest
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.signal
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from flax import linen, nnx
from jax import lax

import jaxconv as jc
import jaxconv.linen
import jaxconv.nnx

README = Path(__file__).parents[1] / "README.md"

SOURCES = ("torch", "lax", "Flax", "scipy")
#: What people come from: each stands in a row.
COVERED = {
    "torch": "F.conv1d F.conv2d F.conv3d F.conv_transpose2d F.max_pool2d F.avg_pool2d F.lp_pool2d "
    "F.adaptive_avg_pool2d F.adaptive_max_pool2d F.max_unpool2d F.unfold F.fold F.pad",
    "lax": "lax.conv lax.conv_general_dilated lax.conv_transpose lax.reduce_window "
    "lax.conv_general_dilated_patches",
    "Flax": "nnx.Conv nnx.ConvTranspose linen.Conv linen.ConvTranspose nnx.max_pool nnx.avg_pool",
    "scipy": "signal.correlate signal.convolve signal.correlate2d signal.convolve2d "
    "ndimage.correlate ndimage.gaussian_filter ndimage.sobel ndimage.laplace "
    "ndimage.uniform_filter ndimage.maximum_filter",
}
#: Public functions that replace nothing of these packages in particular.
OWN = {
    *("accelerate", "algorithms", "explain"),
    *("corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1", "pool2d"),
}


def section(name: str) -> str:
    """What stands in the README between the two comments of that name."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README.read_text(), re.DOTALL)
    return found[1] if found else ""


def table(text: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def pairs(row: list[str]) -> list[tuple[str, str]]:
    """Code on the left with its equal on the right; a single one stands for all."""
    left, right = code(row[0]), code(row[1])
    if 1 in (len(left), len(right)):
        return [(one, other) for one in left for other in right]
    return list(zip(left, right, strict=True))


ROWS = {name: table(section(f"from {name}")) for name in SOURCES}
PAIRS = [(name, *pair) for name in SOURCES for row in ROWS[name] for pair in pairs(row)]


def arrays(rank: int) -> dict[str, np.ndarray]:
    """The README's names; `rank` spatial axes where it does not say otherwise."""
    rng = np.random.default_rng(rank)
    spatial, window = (8, 6, 5)[:rank], (3,) * rank
    shapes = {
        "x": (2, 4, *spatial),
        "kernel": (6, 4, *window),
        "bias": (6,),
        "y": (2, 6, *spatial),
        "depthwise": (8, 1, *window),
        "columns": (2, 36, 24),
        "pooled": (2, 4, 4, 3),
        "nwc": (2, 8, 4),
        "nhwc": (2, 8, 6, 4),
        "hwio": (3, 3, 4, 6),
        "hwoi": (3, 3, 6, 4),
        "image": (9, 8),
        "k": (3, 3),
        "k5": (5, 5),
        "a": (9,),
        "v": (4,),
    }
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    values["int8"] = rng.integers(-128, 128, shapes["x"], np.int8)
    values["int8_kernel"] = rng.integers(-128, 128, shapes["kernel"], np.int8)
    winner = rng.integers(0, 2, (2, *shapes["pooled"]))  # rows and columns within windows of 2x2
    rows, columns = np.ogrid[0:8:2, 0:6:2]
    values["indices"] = (rows + winner[0]) * 6 + columns + winner[1]
    return values


def modules() -> dict[str, Any]:
    """What the rows from Flax assume to be there."""
    with jax.numpy_dtype_promotion("standard"):
        return {
            "key": jax.random.key(1),
            "conv": nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0)),
            "variables": linen.Conv(6, (3, 3)).init(jax.random.key(2), jnp.ones((1, 8, 6, 4))),
        }


OURS = {"jc": jc, "jaxconv": jaxconv, "jnp": jnp, "nnx": nnx}
THEIRS = {
    "torch": (torch.from_numpy, {"F": torch.nn.functional}),
    "lax": (jnp.asarray, {"lax": lax, "jnp": jnp, "jax": jax}),
    "Flax": (jnp.asarray, {"nnx": nnx, "linen": linen}),
    "scipy": (np.asarray, {"signal": scipy.signal, "ndimage": scipy.ndimage}),
}


def evaluate(source: str, theirs: str, ours: str) -> list[tuple[Any, Any]]:
    """Both cells on the same numbers, each in arrays of its own kind; for every `mode` if any."""
    found = re.search(r"([13])d\(", theirs) if source == "torch" else None
    numbers = arrays(int(found[1]) if found else 2)
    convert, names = THEIRS[source]
    left = names | {name: convert(value) for name, value in numbers.items()}
    right = OURS | {name: jnp.asarray(value) for name, value in numbers.items()}
    if source == "Flax":
        left, right = left | modules(), right | modules()
    modes = ("circular", "reflect", "replicate") if "=mode" in theirs else (None,)
    with jax.numpy_dtype_promotion("standard"):
        return [
            (eval(ours, right | {"mode": mode}), eval(theirs, left | {"mode": mode}))
            for mode in modes
        ]


def assert_same(got: Any, due: Any) -> None:
    """The same leaves: shapes, dtypes (but for the width of indices) and values."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(due), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        assert one.size > 1
        assert one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "i"
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("source", "theirs", "ours"), PAIRS)
def test_both_cells_agree(source: str, theirs: str, ours: str, quick_compile):
    for got, due in evaluate(source, theirs, ours):
        assert_same(got, due)


def test_flax_accelerated_is_the_same(quick_compile):
    with jc.accelerate() as acceleration:
        before = acceleration.taken.total()
        for source, theirs, ours in PAIRS:
            if source == "Flax":
                for got, due in evaluate(source, theirs, ours):
                    assert_same(got, due)
        assert acceleration.taken.total() > before


@pytest.mark.parametrize(
    ("source", "theirs", "ours"),
    [
        ("torch", "F.max_pool2d(x, 2)", "jc.max_pool(x, (2, 2), stride=1)"),
        ("torch", "F.conv2d(x, kernel, bias)", "jc.conv(x, kernel)"),
        ("torch", "F.lp_pool2d(x, 3.0, 3)", "jc.lp_pool(x, (3, 3), 3.0)"),
        (
            "lax",
            'lax.conv_transpose(nhwc, hwoi.swapaxes(2, 3), (1, 1), "VALID")',
            'jc.conv_transpose(nhwc, hwoi, layout="NHWC")',
        ),
        ("Flax", "nnx.max_pool(nhwc, (2, 2))", 'jc.max_pool(nhwc, (2, 2), layout="NHWC")'),
        ("scipy", "signal.convolve(image, k)", 'jc.correlate(image, k, "full")'),
        ("scipy", "ndimage.correlate(image, k5)", "jc.filters.apply(image, k5)"),
    ],
)
def test_wrong_rows_are_seen(source: str, theirs: str, ours: str):
    [(got, due)] = evaluate(source, theirs, ours)
    with pytest.raises(AssertionError):
        assert_same(got, due)


@pytest.mark.parametrize("source", SOURCES)
def test_tables_are_whole(source: str):
    assert 6 <= len(ROWS[source]) <= 14
    for row in ROWS[source]:
        assert len(row) == 3
        assert pairs(row)
        assert all(re.search(r"\b(jc|jaxconv)\.", ours) for _, ours in pairs(row))
    left = " ".join(row[0] for row in ROWS[source])
    assert [name for name in COVERED[source].split() if f"{name}(" not in left] == []


def test_every_function_has_a_row():
    right = " ".join(row[1] for source in SOURCES for row in ROWS[source])
    public = {name for name, value in vars(jc).items() if callable(value) and name[0] != "_"}
    assert not OWN - public
    missing = [name for name in public - OWN if f"jc.{name}(" not in right]
    for name in ("Conv", "ConvTranspose", "MaxPool", "AvgPool"):
        if not re.search(rf"jaxconv\.(nnx|linen)\.{name}\(", right):
            missing.append(name)
    assert missing == []


def equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and np.allclose(one, other, 1e-12, 1e-12)


def wrap(image: Any, k: Any) -> bool:
    due = scipy.signal.correlate2d(image, k, "same", boundary="wrap")
    return equal(jc.filters.apply(image, k, padding_mode="circular"), due)


def replicate(image: Any, k: Any) -> bool:
    due = scipy.ndimage.correlate(image, k)
    return equal(jc.filters.apply(image, k, padding_mode="replicate"), due)


def symmetric(image: Any, k: Any) -> bool:
    """The three rows with padding `k // 2`."""
    padding = [(size // 2, size // 2) for size in k.shape]
    padded = jnp.pad(image, padding, mode="symmetric")
    maxima = jc.max_pool(image[None], k.shape, stride=1, padding=padding)[0]
    symm = scipy.signal.convolve2d(image, k, "same", boundary="symm")
    return (
        equal(jc.convolve(padded, k, "valid"), symm)
        and equal(jc.correlate(padded, k), scipy.ndimage.correlate(image, k))
        and equal(maxima, scipy.ndimage.maximum_filter(image, k.shape))
    )


def lax_padding(n: Any, p: int) -> bool:
    kernel = jnp.flip(n.kernel, (2, 3)).swapaxes(0, 1)
    ours = jc.conv_transpose(n.x, kernel, stride=2, padding=2 * 2 - p, dilation=2)
    pairs = ((p, p), (p, p))
    theirs = lax.conv_general_dilated(
        n.x, n.kernel, (1, 1), pairs, lhs_dilation=(2, 2), rhs_dilation=(2, 2)
    )
    return equal(ours, theirs)


def bell(image: Any, sigma: float) -> bool:
    kernel = jc.filters.gaussian(2 * int(4 * sigma + 0.5) + 1, sigma)
    due = scipy.ndimage.gaussian_filter(image, sigma, mode="mirror")
    return equal(jc.filters.apply(image, kernel), due)


#: The remarks that say more than their row shows, and what shows that.
CLAIMS: dict[str, Callable[[Any], bool]] = {
    "takes a stride, too": lambda n: (
        jc.conv(n.x, n.kernel, stride=3, padding="same").shape == (2, 6, 3, 2)
    ),
    "indices are int32": lambda n: (
        jc.max_pool(n.x, (2, 2), return_indices=True)[1].dtype == jnp.int32
    ),
    "odd p: torch does not take magnitudes": lambda n: equal(
        jc.lp_pool(n.x, (3, 3), 3.0), torch.nn.functional.lp_pool2d(torch.tensor(abs(n.x)), 3.0, 3)
    ),
    "half precision is summed in float32 in any case": lambda n: (
        jc.conv(jnp.ones((1, 4096), jnp.bfloat16), jnp.ones((1, 1, 4096), jnp.bfloat16)) == 4096
    ).all(),
    "p of lax is `dilation*(k-1) - p` here": lambda n: all(lax_padding(n, p) for p in range(4)),
    "floats; of integers lax's are integers": lambda n: (
        jc.avg_pool(n.int8, (3, 3), divisor_override=1).dtype == float
        and lax.reduce_window(n.int8, np.int8(0), lax.add, (1,) * 4, (1,) * 4, "SAME").dtype == "i1"
    ),
    "the same parameters from the same key": lambda n: jax.tree.all(
        jax.tree.map(
            equal,
            nnx.state(jaxconv.nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(5))),
            nnx.state(nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(5))),
        )
    ),
    "takes groups, too": lambda n: (
        jaxconv.nnx.ConvTranspose(
            *(4, 6, (3, 3)), feature_group_count=2, param_dtype=float, rngs=nnx.Rngs(0)
        )(jnp.asarray(n.nhwc)).shape
        == (2, 8, 6, 6)
    ),
    'our default is `"valid"`': lambda n: equal(
        jc.correlate(n.image, n.k), scipy.signal.correlate(n.image, n.k, "valid")
    ),
    "odd windows": lambda n: wrap(n.image, n.k5[:3]) and not wrap(n.image, n.k5[:4]),
    "odd windows, padding `k // 2`": lambda n: symmetric(n.image, n.k5[:3]),
    "even windows as well": lambda n: equal(
        jc.filters.apply(n.image, n.k5[:4]),
        scipy.ndimage.correlate(n.image, n.k5[:4], mode="mirror"),
    ),
    "windows of 3": lambda n: replicate(n.image, n.k[:1]) and not replicate(n.image, n.k5),
    "size `2 * int(4 * sigma + 0.5) + 1`": lambda n: all(
        bell(n.image, sigma) for sigma in (0.4, 0.8, 1.0)
    ),
}
#: The remarks that name what their own row shows.
SHOWN = {
    "the rank is the kernel's",
    "`mode`: circular, reflect, replicate; `F.pad` begins with the last axis",
    "the same kernel",
    "the stride is the window",
    "the size is given, not guessed",
    "no adjoint: lax leaves the kernel unturned",
    "the adjoint: `conv`'s kernel, `(3, 3, 6, 4)`",
    "output and parameters",
    "`variables`: Flax's checkpoint",
    "`conv = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))`",
    "the module's stride is Flax's, 1",
}


def test_remarks_are_all_known():
    remarks = {row[2] for source in SOURCES for row in ROWS[source]}
    assert remarks - {""} == CLAIMS.keys() | SHOWN


@pytest.mark.parametrize("remark", CLAIMS)
def test_remarks_are_true(remark: str, quick_compile):
    assert CLAIMS[remark](SimpleNamespace(**arrays(2)))


def test_names_have_the_shapes_that_are_said():
    said = re.findall(r"`(\w+)`\s`(\([\d, ]+\))`", section("names"))
    assert len(said) == 15
    assert {name: arrays(2)[name].shape for name, _ in said} == {
        name: ast.literal_eval(shape) for name, shape in said
    }


ERRORS = table(section("errors"))


def test_each_error_stands_beside_what_others_say():
    examples = doctest.DocTestParser().get_examples(section("errors"))
    shown = [example for example in examples if example.exc_msg is not None]
    assert 5 <= len(shown) <= 7
    assert len(ERRORS) == len(shown)


QUOTES = [(c, q) for row in ERRORS for c, q in zip(code(row[1]), code(row[2]), strict=True)]


@pytest.mark.skipif(not jax.__version__.startswith(("0.10.", "0.11.")), reason="quotes of these")
@pytest.mark.parametrize(("command", "quote"), QUOTES)
def test_others_say_what_is_quoted(command: str, quote: str):
    """The README's own lines make the arrays; `...` stands for anything."""
    names: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax, "nnx": nnx, "linen": linen}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(action="ignore"),  # NumPy's own, where a stride is 0
    ):
        for example in doctest.DocTestParser().get_examples(section("errors")):
            if example.exc_msg is None:
                exec(example.source, names)
        try:
            said = repr(eval(command, names))
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    assert re.fullmatch(".*".join(map(re.escape, quote.split("..."))), said), said
