"""`experiments/edge_kernel.py`: the notes' logs digit by digit, then a photograph."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

SCRIPT = Path(__file__).parents[1] / "experiments" / "edge_kernel.py"
TRUE = np.array([1.0, -1.0])
GRAM = {False: 6 * np.array([[3, 2], [2, 3]]), True: 6 * np.array([[4, 3], [3, 4]])}
LOG_NAMES = "ABCDE"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge_kernel", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


edge_kernel = load()
from PIL import Image  # noqa: E402

LOGS = {log.name: log for log in edge_kernel.LOGS}


@pytest.fixture(scope="module")
def runs():
    return {name: edge_kernel.train(log) for name, log in LOGS.items()}


def texture(height=40, width=50, seed=3):
    """Random blobs, as correlated from pixel to pixel as a photograph: 0..255."""
    noise = np.random.default_rng(seed).random((height, width))
    smooth = np.asarray(jc.filters.apply(noise, jc.filters.gaussian(3, 0.7)))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.rint(255 * smooth).astype(np.uint8)


def save(path, pixels, mode=None):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def call(*args):
    return edge_kernel.main([str(arg) for arg in args])


# The notes' logs.


def test_the_logs_are_the_notes():
    # The table again, so that a slip of the finger in the script is seen.
    a, b, c, d, e = (LOGS[name] for name in LOG_NAMES)
    assert [log.rate for log in (a, b, c, d, e)] == [3e-2, 1e-2, 1e-2, 3e-2, 3e-2]
    assert [log.steps for log in (a, b, c, d, e)] == [10, 10, 20, 10, 10]
    assert [log.bright_bar for log in (a, b, c, d, e)] == [False, True, False, False, False]
    assert a.kernel == (-0.60156843, -0.53401201)
    assert b.kernel == (0.05452535, -0.09720761)
    assert (c.kernel, c.bias) == ((0.9208931, -0.89201017), -0.01816965)
    assert d.kernel == (0.23143626, -0.53691007)
    assert e.kernel == (0.03765523, 0.21473319)
    assert [len(log.printed_losses) for log in (a, b, c, d, e)] == [5, 10, 20, 0, 0]
    assert a.printed_losses == {2: "17.632", 4: "5.952", 6: "2.225", 8: "0.876", 10: "0.353"}
    assert " ".join(b.printed_losses.values()) == (
        "10.286530 7.937241 6.145866 4.759340 3.685633 2.854154 2.210257 1.711623 1.325481 1.026453"
    )
    assert " ".join(loss.removeprefix("0") for loss in c.printed_losses.values()) == (
        ".1125 .0861 .0660 .0507 .0390 .0301 .0232 .0179 .0138 .0107 "
        ".0082 .0064 .0049 .0038 .0029 .0023 .0018 .0014 .0011 .0008"
    )
    assert [log.printed_kernel for log in (a, b, c, d, e)] == [
        ("0.9271", "-1.0490"),
        ("0.7426", "-0.7426"),
        ("0.9929", "-0.9926"),
        ("0.9765", "-1.0093"),
        ("1.0010", "-0.9739"),
    ]
    assert c.printed_bias == "-0.0002"


def test_toy_images():
    row = [1, 1, 0, 0, 0, 0, 1, 1]
    np.testing.assert_array_equal(edge_kernel.toy_image(), [row] * 6)
    np.testing.assert_array_equal(edge_kernel.toy_image(bright_bar=True), 1 - np.array([row] * 6))
    assert edge_kernel.toy_image().dtype == np.float32


@pytest.mark.parametrize("name", LOG_NAMES)
def test_every_printed_digit(name, runs):
    log, run = LOGS[name], runs[name]
    # Formatted here, not by the script's own table.
    for step, printed in log.printed_losses.items():
        decimals = len(printed.split(".")[1])
        assert f"{run.losses[step - 1]:.{decimals}f}" == printed, f"loss at step {step}"
    assert tuple(f"{k:.4f}" for k in run.params["kernel"][-1, 0]) == log.printed_kernel
    if log.printed_bias is not None:
        assert f"{run.params['bias'][-1]:.4f}" == log.printed_bias
    rows = edge_kernel.compare(log, run)
    assert len(rows) == len(log.printed_losses) + (3 if name == "C" else 2)
    assert all(row.difference == 0 for row in rows)


@pytest.mark.parametrize("name", LOG_NAMES)
def test_training_is_float32(name, runs):
    run = runs[name]
    assert run.losses.dtype == run.errors.dtype == run.params["kernel"].dtype == np.float32
    assert run.errors.shape == (LOGS[name].steps, 42)


@pytest.mark.parametrize("name", ["A", "B", "D", "E"])
def test_loss_is_the_closed_form(name, runs):
    log, run = LOGS[name], runs[name]
    e = run.params["kernel"][:-1, 0].astype(float) - TRUE
    expected = np.einsum("ti,ij,tj->t", e, GRAM[log.bright_bar], e)
    np.testing.assert_allclose(run.losses, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("name", "factors"), [("A", (-0.8, 0.64)), ("B", (0.16, 0.88)), ("D", (-0.8, 0.64))]
)
def test_each_step_shrinks_the_modes(name, factors, runs):
    log, run = LOGS[name], runs[name]
    # The eigenvectors are the sum and the difference of the two entries.
    modes = (run.params["kernel"][:, 0].astype(float) - TRUE) @ np.array([[1, 1], [1, -1]])
    values = np.linalg.eigvalsh(GRAM[log.bright_bar])[::-1]
    np.testing.assert_allclose(1 - 2 * log.rate * values, factors, rtol=1e-12)
    np.testing.assert_allclose(modes[1:], modes[:-1] * factors, atol=1e-6)


@pytest.mark.parametrize("name", LOG_NAMES)
def test_exact_is_within_float32_of_the_run(name, runs):
    losses, params = edge_kernel.exact(LOGS[name])
    np.testing.assert_allclose(runs[name].losses, losses, rtol=1e-5)
    last = [*runs[name].params["kernel"][-1, 0]]
    last += [runs[name].params["bias"][-1]] if name == "C" else []
    np.testing.assert_allclose(last, params, atol=1e-6)


@pytest.mark.parametrize("name", LOG_NAMES)
def test_gradient_is_that_of_the_whole_convolution(name, runs):
    # The script adds up the windows' gradients itself; one convolution must give the same.
    log, run = LOGS[name], runs[name]
    image = edge_kernel.toy_image(log.bright_bar)
    edges = jc.corr2d(image, jnp.asarray([[1.0, -1.0]], image.dtype))

    def loss(params):
        found = jc.corr2d(image, params["kernel"]) + jnp.full((1, 1), params.get("bias", 0.0))
        return jnp.sum((found - edges) ** 2)

    for step in range(log.steps):
        params = {key: jnp.asarray(value[step]) for key, value in run.params.items()}
        value, gradient = jax.value_and_grad(loss)(params)
        np.testing.assert_allclose(run.losses[step], value, rtol=2e-6)
        for key, before in run.params.items():
            after = before[step] - log.rate * np.asarray(gradient[key])
            np.testing.assert_allclose(before[step + 1], after, atol=1e-6)


def test_a_wrong_digit_is_reported(capsys, runs):
    rows = edge_kernel.compare(LOGS["B"], runs["B"])
    assert edge_kernel.print_table(rows)
    assert "12 of the notes' 12 numbers agree" in capsys.readouterr().out
    rows[9] = rows[9]._replace(printed="1.026454")
    assert not edge_kernel.print_table(rows)
    out = capsys.readouterr().out
    assert "11 of the notes' 12 numbers agree" in out
    assert "-0.000001" in out


# The photograph.


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return save(tmp_path_factory.mktemp("edge") / "photo.png", texture())


def test_main_learns_the_kernel(photo, tmp_path, capsys):
    out = tmp_path / "figure.png"
    assert call("--image", photo, "--out", out) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress bar: this is no terminal
    assert "46 of the notes' 46 numbers agree" in printed.out
    words = next(line for line in printed.out.splitlines() if "relative error" in line).split()
    assert float(words[2]) < 1e-3
    assert [line.split()[3:] for line in printed.out.splitlines() if line.startswith("  ")][
        -3:
    ] == [
        ["-1", "0", "1"],
        ["-2", "0", "2"],
        ["-1", "0", "1"],
    ]
    with Image.open(out) as figure:
        figure.load()
        assert figure.format == "PNG"
        assert 800 <= figure.width <= 2000
        assert 800 <= figure.height <= 2000
        assert len(np.unique(np.asarray(figure.convert("L")))) > 50


def test_main_fails_on_a_wrong_digit(photo, tmp_path, monkeypatch):
    wrong = LOGS["D"]._replace(printed_kernel=("0.9764", "-1.0093"))
    logs = tuple(wrong if log.name == "D" else log for log in edge_kernel.LOGS)
    monkeypatch.setattr(edge_kernel, "LOGS", logs)
    assert call("--image", photo, "--out", tmp_path / "figure.png") == 1


def test_main_fails_when_the_kernel_is_not_found(photo, tmp_path, capsys):
    assert call("--image", photo, "--out", tmp_path / "figure.png", "--steps", 2) == 1
    out = capsys.readouterr().out
    assert "after 2 steps, NOT below 0.001" in out


@pytest.mark.parametrize("axis", [0, 1])
def test_pose_gives_the_edges_and_the_curvature(axis):
    grey = texture(20, 24) / 255
    posed = edge_kernel.pose("texture", grey, axis)
    assert posed.pixels.dtype == posed.edges.dtype == posed.true.dtype == np.float32
    np.testing.assert_array_equal(posed.true, jc.filters.sobel(axis))
    pixels = (grey - grey.mean()) / grey.std()
    np.testing.assert_allclose(posed.pixels, pixels, atol=1e-6)
    # The Gram matrix of all 3x3 windows, by NumPy alone.
    padded = np.pad(pixels, 1, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(-1, 9)
    sobel = np.outer([1, 2, 1], [-1, 0, 1])
    edges = windows @ (sobel if axis == 1 else sobel.T).ravel()
    np.testing.assert_allclose(np.ravel(posed.edges), edges, atol=1e-4)
    values = np.linalg.eigvalsh(2 * windows.T @ windows / len(windows))
    np.testing.assert_allclose([posed.slowest, posed.fastest], values[[0, -1]], rtol=1e-3)


def test_tuned_steps_reach_the_tolerance_at_any_condition():
    # Heavy ball on two modes, the worst case of its theory, in place of an image.
    photo = edge_kernel.Photo("", *[jnp.zeros((1, 1))] * 4, 1.0, 900.0)
    rate, momentum, steps = edge_kernel.tune(photo)
    e = before = np.ones(2)
    for _ in range(steps):
        e, before = e - rate * np.array([1.0, 900.0]) * e + momentum * (e - before), e
    assert np.linalg.norm(e) < 1e-3 * np.sqrt(2)
    assert edge_kernel.tune(photo._replace(fastest=1e9))[2] == edge_kernel.MOST_STEPS


def test_seed_sets_the_start():
    posed = edge_kernel.pose("texture", texture(16, 16) / 255, 1)
    sgd = edge_kernel.optax.sgd(1e-3)
    first, again, other = (edge_kernel.fit(posed, seed, 2, sgd).kernels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - other[0]).max() > 0.1


def test_steps_that_do_not_fill_the_last_chunk():
    posed = edge_kernel.pose("texture", texture(16, 16) / 255, 1)
    steps = edge_kernel.CHUNK + 7
    result = edge_kernel.fit(posed, 0, steps, edge_kernel.optax.sgd(1e-2))
    assert (result.kernels.shape, result.losses.shape) == ((steps + 1, 3, 3), (steps,))
    value = edge_kernel.loss(result.kernels[-2], posed.pixels, posed.edges)
    np.testing.assert_allclose(result.losses[-1], value, rtol=1e-5)
    assert np.all(np.diff(result.losses) < 0)


def test_grey_levels_of_every_kind_of_file(tmp_path):
    pixels = texture(12, 15)
    colour = np.stack([pixels, pixels, pixels], axis=-1)
    deep = pixels.astype(np.uint16) * 257  # the same levels of 65535
    half = np.concatenate([colour, np.full((12, 15, 1), 128, np.uint8)], axis=-1)
    files = {
        "grey": save(tmp_path / "grey.png", pixels),
        "colour": save(tmp_path / "colour.png", colour),
        "palette": save(tmp_path / "palette.png", pixels, "P"),
        "deep": save(tmp_path / "deep.png", deep),
        "half": save(tmp_path / "half.png", half),
    }
    for kind, path in files.items():
        name, grey = edge_kernel.load_grey(path)
        assert name == repr(path.name)
        expected = pixels / 255
        if kind == "half":  # half transparent, on white
            expected = 1 - (1 - expected) * 128 / 255
        np.testing.assert_allclose(grey, expected, atol=2 / 255 if kind == "half" else 1e-6)
    Image.fromarray(colour).save(tmp_path / "photo.jpg", quality=95)
    _, grey = edge_kernel.load_grey(tmp_path / "photo.jpg")
    np.testing.assert_allclose(grey, pixels / 255, atol=0.1)


def test_large_images_are_reduced(tmp_path):
    path = save(tmp_path / "large.png", texture(30, 1500))
    _, grey = edge_kernel.load_grey(path)
    assert grey.shape == (13, 640)
    assert grey.min() >= 0
    assert grey.max() <= 1


def test_default_photograph():
    name, grey = edge_kernel.load_grey(None)
    assert "china.jpg" in name
    assert grey.shape == (427, 640)


# Bad input: one line on stderr, exit code 2, nothing written.


def broken(path):
    whole = save(path.with_name("whole.png"), texture()).read_bytes()
    path.write_bytes(whole[:300])


BAD_IMAGES = {
    "missing": (lambda path: None, "No such file"),
    "directory": (lambda path: path.mkdir(), "cannot read"),
    "text": (lambda path: path.write_text("no image"), "not a PNG or JPEG"),
    "empty": (lambda path: path.touch(), "not a PNG or JPEG"),
    "truncated": (broken, "cannot read"),
    "constant": (lambda path: save(path, np.full((20, 20, 3), 77, np.uint8)), "one colour"),
    "small": (lambda path: save(path, texture(2, 30)), "30x2 pixels are too few"),
    "ramp": (lambda path: save(path, np.tile(np.arange(64, dtype=np.uint8), (9, 1))), "uniform"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image(kind, tmp_path, capsys):
    make, message = BAD_IMAGES[kind]
    path, out = tmp_path / "image.png", tmp_path / "figure.png"
    make(path)
    assert call("--image", path, "--out", out) == 2
    check_one_line(capsys, message, "image.png")
    assert not out.exists()


def check_one_line(capsys, *parts):
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    for part in parts:
        assert part in printed.err


def test_other_formats_are_refused(tmp_path, capsys):
    path = tmp_path / "image.gif"
    Image.fromarray(texture()).save(path)
    assert call("--image", path, "--out", tmp_path / "figure.png") == 2
    check_one_line(capsys, "not a PNG or JPEG")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/figure.png", "no directory"),
        ("figure.gif", "must end in .png"),
        ("folder.png", "cannot be written"),
        ("photo.png", "overwrite"),
    ],
)
def test_bad_out(out, message, tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    image = save(tmp_path / "photo.png", texture())
    before = image.read_bytes()
    assert call("--image", image, "--out", tmp_path / out) == 2
    check_one_line(capsys, message)
    assert image.read_bytes() == before


@pytest.mark.parametrize("args", [("--steps", "0"), ("--steps", "many"), ("--axis", "2")])
def test_bad_options(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(*args)
    assert exit_.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_as_a_script_without_a_terminal(tmp_path):
    """The exit code reaches the shell; an error is no traceback."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(SCRIPT.parents[1]), *sys.path]))
    command = [sys.executable, str(SCRIPT), "--image", "none.png", "--out", "figure.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "edge_kernel: cannot read 'none.png': No such file or directory\n"
