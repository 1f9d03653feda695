"""`onednn`: where XLA's own call of oneDNN may stand in a program, where it must not, and that it
computes beside others, in loops and in threads."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TOLERANCE, assert_close
from jax import export, lax, version

import jaxconv as jc
from jaxconv._algorithms import _library, onednn
from jaxconv._form import Form, Problem
from jaxconv._geometry import Geometry
from jaxconv._layout import Layout

CALL = "__onednn$convolution"
needed = pytest.mark.skipif(not _library.is_there(), reason="this XLA has no oneDNN")


def operands(dtype="float32"):
    rng = np.random.default_rng(3)
    shapes = (2, 20, 20, 24), (3, 3, 24, 32)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def convolve(x, w, **options):
    return jc.conv(x, w, padding=1, layout="NHWC", **options)


def gradients(x, w):
    return jax.grad(lambda x, w: (convolve(x, w) ** 2).sum(), (0, 1))(x, w)


@needed
def test_programs_for_this_machine_have_it_and_no_others(tmp_path):
    x, w = operands()
    assert CALL in jax.jit(convolve).lower(x, w).as_text()
    assert CALL not in export.export(jax.jit(convolve))(x, w).mlir_module()
    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("n, 20, 20, 24"), jnp.float32)
    assert CALL not in export.export(jax.jit(convolve))(symbolic, w).mlir_module()
    for platform in ("cuda", "tpu"):
        traced = jax.jit(lambda x, w: convolve(x, w)).trace(x, w)
        assert CALL not in traced.lower(lowering_platforms=(platform,)).as_text()
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        # XLA fails to write a compiled program that has the call.
        lowered = jax.jit(lambda x, w: convolve(x, w)).lower(x, w)
        assert CALL not in lowered.as_text()
        assert "onednn" not in str(jc.explain(x.shape, w.shape, layout="NHWC", padding=1))
        lowered.compile()
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
    steps = jc.explain(x.shape, w.shape, layout="NHWC", padding=1, platform="cpu")
    assert [step.algorithm for step in steps.output] == ["onednn"]


@needed
def test_kernel_gradients_are_its_products():
    x, w = operands()
    text = jax.jit(gradients).lower(x, w).as_text()
    assert "__onednn$matmul" in text
    assert CALL in text


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("sys.platform", "darwin"),
        ("platform.machine", lambda: "aarch64"),
        ("version.__version__", "0.9.2"),
        ("version.__version__", "1.0.0"),
        ("_features", lambda: frozenset(("sse4_2",))),
        ("_compiles", lambda: False),
    ],
)
def test_elsewhere_it_is_not_there(change, value, monkeypatch):
    """And then the rest of the table computes."""
    monkeypatch.setattr(f"jaxconv._algorithms._library.{change}", value)
    found = _library.is_there.__wrapped__()
    assert not found
    monkeypatch.setattr(_library, "is_there", lambda: found)
    x, w = operands()
    steps = jc.explain(x.shape, w.shape, layout="NHWC", padding=1, platform="cpu")
    assert "onednn" not in str(steps)
    assert "onednn" not in jax.jit(lambda x, w: gradients(x, w)).lower(x, w).as_text()
    with pytest.raises(ValueError, match="compiled for this machine's CPU"):
        convolve(x, w, algorithm="onednn")


def test_limits_set_by_the_user_turn_it_off(monkeypatch):
    monkeypatch.setenv("JAXCONV_ONEDNN", "0")
    assert not _library.is_there.__wrapped__()
    monkeypatch.delenv("JAXCONV_ONEDNN")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert not _library.is_there.__wrapped__()


HALF, SINGLE = np.dtype(jnp.bfloat16), np.dtype(np.float32)


@pytest.mark.parametrize(
    ("features", "taken"),
    [
        (_library.AVX2, {(SINGLE, True)}),
        (_library.AVX512, {(SINGLE, True), (SINGLE, False)}),
        (_library.BFLOAT16, {(SINGLE, True), (SINGLE, False), (HALF, True)}),
        (_library.BFLOAT16 | {"amx_tile"}, {(SINGLE, True), (SINGLE, False)}),
    ],
)
def test_processors_without_a_kernel_for_it_are_not_asked(features, taken, monkeypatch):
    """What it has no kernel for it computes in a way that XLA's threads would wait for for ever."""
    monkeypatch.setattr(_library, "_features", lambda: features)
    asked = [(dtype, last) for dtype in (HALF, SINGLE) for last in (False, True)]
    found = {(dtype, last) for dtype, last in asked if _library.takes((dtype,) * 3, last)}
    assert found == taken
    assert not _library.takes((HALF, SINGLE, HALF), True)
    assert not _library.takes((np.dtype(np.float16),) * 3, True)
    if (SINGLE, False) not in taken and _library.is_there():
        x, w = jnp.zeros((1, 16, 8, 8)), jnp.zeros((16, 16, 3, 3))
        x, w = x.astype(SINGLE), w.astype(SINGLE)
        with pytest.raises(ValueError, match="needs a processor with AVX-512"):
            jc.conv(x, w, algorithm="onednn")


@needed
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    x, w = operands(dtype)
    wide = convolve(x.astype(np.float64), w.astype(np.float64), algorithm="direct")
    got = convolve(x, w, algorithm="onednn")
    assert got.dtype == dtype
    assert_close(got.astype(np.float64), wide, TOLERANCE[dtype])
    summed = convolve(x, w, algorithm="onednn", preferred_element_type=jnp.float32)
    assert_close(summed.astype(np.float64), wide, TOLERANCE["float32"])


@needed
@pytest.mark.parametrize(
    ("window", "stride", "name"),
    [((1, 1), 1, "matmul"), ((2, 2), 2, "matmul"), ((3, 3), 2, "auto")],
)
def test_gradients_in_half_precision_are_rounded_once(window, stride, name):
    rng = np.random.default_rng(9)
    shapes = (3, 16, 16, 24), (*window, 24, 40)
    half = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    wide = [array.astype(np.float64) for array in half]

    def pulled(algorithm, x, w):
        options = {"stride": stride, "layout": "NHWC", "algorithm": algorithm}
        y, pull = jax.vjp(lambda x, w: jc.conv(x, w, **options), x, w)
        cotangent = jnp.asarray(np.cos(np.arange(y.size)).reshape(y.shape), jnp.bfloat16)
        return y, *pull(cotangent.astype(y.dtype))

    text = jax.jit(lambda x, w: pulled(name, x, w)).lower(*half).as_text()
    assert "__onednn$matmul" in text
    for got, want in zip(pulled(name, *half), pulled("direct", *wide), strict=True):
        assert got.dtype == jnp.bfloat16
        assert_close(got.astype(np.float64), want, TOLERANCE["bfloat16"])


REFUSED = [
    ({"stride": (2, 1)}, "input_grad", "no strided input gradient"),
    ({"groups": 2, "dilation": (5, 1)}, "output", "window is not larger than the image"),
    ({"groups": 8, "dilation": (2, 1)}, "output", "channels first, have two axes or three, and no"),
    ({"window": (1, 1)}, "output", "no windows of one element"),
    ({"padding": ((-10, 2), (0, 0))}, "output", "no image of padding alone"),
]


@pytest.mark.parametrize(("options", "projection", "why"), REFUSED)
def test_what_it_may_have_no_kernel_for_is_refused(options, projection, why, monkeypatch):
    """There it would take products in several threads at once, and XLA's threads wait for ever.
    On a processor with AVX-512, whatever this one has: nothing is computed."""
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.AVX512)
    given = {"window": (3, 3), "stride": (1, 1), "padding": ((2, 2), (0, 0))}
    given |= {"dilation": (1, 1), "groups": 1} | options
    geometry = Geometry((10, 9), *given.values())
    form = Form(geometry, Layout(2, False), (SINGLE, SINGLE, SINGLE))
    x, w = (2, 8, 10, 9), (8, 8 // given["groups"], *given["window"])
    y = form.result_shape("output", x, w)
    problem = Problem(projection, form, (x if projection == "output" else y, w), "cpu")
    assert why in str(onednn.refuses(problem))
    assert onednn.refuses(Problem("output", form, (x, w), "cpu", 2))
    wide = np.dtype(np.float64)
    double = Form(geometry, Layout(2, False), (wide, wide, wide))
    assert "sums in float32" in str(onednn.refuses(Problem("output", double, (x, w), "cpu")))


ALONE = [  # of channels on their own: image, window, and options; what is read, padded how
    # images of one row in the place of lines
    ((2, 60, 24), (5,), {"padding": ((2, 2),)}, (2, 1, 60, 24), ([0, 2], [0, 2])),
    ((2, 60, 24), (31,), {"padding": ((15, 3),)}, (2, 1, 60, 24), ([0, 15], [0, 3])),
    # padding of up to four is left to it where windows are dilated
    ((2, 30, 24), (7,), {"padding": ((6, 4),), "dilation": 2}, (2, 1, 32, 24), ([0, 4], [0, 4])),
    (
        (2, 20, 20, 24),
        (3, 3),
        {"padding": ((2, 2), (4, 5)), "dilation": 3},
        (2, 20, 21, 24),
        ([2, 4], [2, 4]),
    ),
    # and not more than there are results, which are three here
    (
        (2, 20, 12, 24),
        (3, 5),
        {"padding": ((1, 1), (4, 2)), "dilation": (1, 2), "stride": (1, 4)},
        (2, 20, 13, 24),
        ([1, 3], [1, 2]),
    ),
]


@needed
@pytest.mark.parametrize(("image", "window", "options", "read", "sides"), ALONE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_channels_on_their_own(image, window, options, read, sides, dtype):
    """In single precision, padded no wider than what there is a kernel for."""
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=image), dtype)
    w = jnp.asarray(rng.normal(size=(*window, 1, image[-1])), dtype)
    layout = "NWC" if len(window) == 1 else "NHWC"
    options = options | {"groups": image[-1], "layout": layout}
    called = jax.jit(lambda x, w: jc.conv(x, w, algorithm="onednn", **options))
    (line,) = (line for line in called.lower(x, w).as_text().splitlines() if CALL in line)
    assert f"tensor<{'x'.join(map(str, read))}xf32>" in line
    low, high = (json.dumps(side).replace(" ", "") for side in sides)
    config = line.replace(" ", "").replace("\\22", '"')
    assert f'"pad_left":{low},"pad_right":{high}' in config
    wide = [array.astype(np.float64) for array in (x, w)]
    want = jc.conv(*wide, algorithm="direct", **options)
    assert_close(called(x, w).astype(np.float64), want, TOLERANCE[dtype])


@needed
@pytest.mark.parametrize(("channels", "width", "given"), [(16, 15, "f32"), (24, 15, "bf16")])
def test_few_channels_and_a_wide_window_in_bfloat16_are_widened(channels, width, given):
    """oneDNN would make a kernel for ever."""
    x = jax.ShapeDtypeStruct((2, 8, 40, channels), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((3, width, 1, channels), jnp.bfloat16)
    options = {"groups": channels, "layout": "NHWC", "algorithm": "onednn"}
    text = jax.jit(lambda x, w: jc.conv(x, w, **options)).lower(x, w).as_text()
    (line,) = (line for line in text.splitlines() if CALL in line)
    here = _library.takes((jnp.bfloat16,) * 3, channels_last=True)
    assert f"tensor<2x8x40x{channels}x{given if here else 'f32'}>" in line


@needed
def test_large_windows_are_transformed_where_that_is_fewer_products():
    def chosen(image, window, groups, layout="NHWC"):
        kernel = (*window, image[-1] // groups, image[-1])
        steps = jc.explain(image, kernel, groups=groups, layout=layout, platform="cpu")
        return [step.algorithm for part in (steps.output, steps.input_grad) for step in part]

    assert chosen((2, 44, 44, 64), (17, 17), 64) == ["onednn"] * 2
    assert chosen((1, 160, 160, 16), (61, 61), 16)[0] == "fft"
    assert chosen((2, 94, 94, 4), (31, 31), 1)[0] == "fft"
    assert chosen((2, 94, 94, 8), (31, 31), 8)[0] == "fft"  # half of each vector would be empty
    assert chosen((4, 4000, 64), (129,), 64, "NWC") == ["onednn"] * 2


@needed
def test_many_at_once_in_loops_and_in_threads():
    """Its calls wait for XLA's threads, which run others of them."""
    x, _ = operands()
    rng = np.random.default_rng(0)
    kernels = [jnp.asarray(rng.normal(size=(3, 3, 24, 24)) / 20, jnp.float32) for _ in range(6)]
    want = [convolve(x, w, algorithm="direct") for w in kernels]

    def called(x, w):
        return convolve(x, w, algorithm="onednn")

    def looped(x, kernels):
        def step(x, _):
            return jnp.tanh(sum(called(x, w) for w in kernels)), None

        return lax.scan(step, x, None, length=5)[0]

    side_by_side = jax.jit(lambda x, kernels: [called(x, w) for w in kernels])
    in_a_loop, failures = jax.jit(looped), []

    def run():
        for _ in range(5):
            for got, known in zip(side_by_side(x, kernels), want, strict=True):
                if np.abs(got - known).max() > 1e-4:
                    failures.append(got)
            jax.block_until_ready(in_a_loop(x, kernels))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


@needed
def test_no_number_crosses_from_an_image_or_a_group_to_another():
    x, w = operands()
    grouped = w[:, :, :6]
    bad = x.at[1, 5, 5, 7].set(jnp.nan).at[0, 0, 0, 23].set(jnp.inf)
    for kernel, groups in ((w, 1), (grouped, 4)):
        got = convolve(bad, kernel, groups=groups, algorithm="onednn")
        want = convolve(bad, kernel, groups=groups, algorithm="direct")
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


def test_the_probe_is_for_the_jax_that_is_installed():
    """A jax beyond those known goes without, until somebody has looked."""
    found = tuple(int(part) for part in version.__version__.split(".")[:2])
    assert _library.KNOWN_VERSIONS[0] <= found
