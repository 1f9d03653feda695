"""`experiments/gallery.py`: the numbers behind its figures, its files, and bad input."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
NAMES = {
    "kernels", "feature_maps", "pooling", "receptive_field", "path", "padding_modes", "gradients",
}  # fmt: skip
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
MOST = 150_000  # bytes of a figure
MOST_OF_ALL = 800_000


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", **QUICK}
    command = [sys.executable, str(EXPERIMENTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(autouse=True)
def as_a_user_has_it(quick_compile):
    """The scripts are run with jax's own settings; and Flax's average pool needs the promotion."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def module():
    """A module of the experiments by its name, as the script itself imports it."""
    sys.path.insert(0, str(EXPERIMENTS))
    yield __import__
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def untrained(module):
    return module("lenet_networks").LeNet((28, 28), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Everything, from a network trained for one epoch."""
    out = tmp_path_factory.mktemp("gallery") / "new" / "figures"
    ran = run("gallery.py", "--epochs", 1, "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return out, ran.stdout


# The files.


def is_figure(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.info == {}  # no dates, no versions: the same pixels are the same file
        assert image.width == 1200
        assert 500 < image.height < 1500
        pixels = np.asarray(image.convert("RGB"))
    assert np.all(pixels[0, 0] == 255)  # a README's page is white
    assert 50 < len(np.unique(pixels @ [65536, 256, 1])) <= 256
    assert 10_000 < path.stat().st_size <= MOST


def test_all_figures_come_out(drawn):
    out, printed = drawn
    assert {path.name for path in out.iterdir()} == {f"{name}.png" for name in NAMES}
    for path in out.iterdir():
        is_figure(path)
        assert f"{path}  {path.stat().st_size / 1000:.0f} kB" in printed
    assert printed.count("training") == 1


def test_committed_figures():
    paths = sorted((EXPERIMENTS / "figures").iterdir())
    assert {path.name for path in paths} == {f"{name}.png" for name in NAMES}
    for path in paths:
        is_figure(path)
    assert sum(path.stat().st_size for path in paths) <= MOST_OF_ALL


def test_same_seed_same_pixels(drawn, module, tmp_path, capsys, monkeypatch):
    """Once more, in another process; a figure that needs no network trains none."""
    gallery = module("gallery")
    monkeypatch.setattr(gallery.lenet, "train", None)
    assert gallery.main(["--out", str(tmp_path), "--only", "path", "pooling"]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"path", "pooling"}
    assert "training" not in capsys.readouterr().out
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (drawn[0] / path.name).read_bytes()


def test_colours_survive_the_palette(module):
    style = module("gallery_style")
    with style.style():
        figure = style.sheet(2, "A title")
        axes = figure.subplots()
        style.picture(axes, np.linspace(-1, 1, 200)[None], **style.signed(1.0), aspect="auto")
        original = io.BytesIO()
        figure.savefig(original, dpi=style.DPI)
        small = Image.open(io.BytesIO(style.encode(figure))).convert("RGB")
    before = np.asarray(Image.open(original).convert("RGB"), int)
    after = np.asarray(small, int)
    assert before.shape == after.shape
    assert np.abs(before - after).max() <= 12
    for extreme in (0, 255):
        same = np.all(before == extreme, axis=-1)
        assert np.all(after[same] == extreme)


@pytest.fixture(scope="module")
def saved(module, tmp_path_factory):
    """A run's first checkpoint, its weights those of seed 0 but for one; and these weights."""
    gallery, directory = module("gallery"), tmp_path_factory.mktemp("run")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        settings, data = gallery.Settings(), gallery.digits(0)
        state = gallery.Trainer(settings, data).start
        network = nnx.merge(nnx.split(gallery.LeNet((28, 28), rngs=nnx.Rngs(0)))[0], state.weights)
        network.c1.bias[...] = jnp.arange(6.0)
        state = state._replace(weights=nnx.state(network))
        with gallery.Checkpoints(directory / "checkpoints") as checkpoints:
            about = gallery.lenet.about(settings, data, 1)
            checkpoints.save(state, {"about": about, "history": []})
    return directory


def test_network_of_a_run(module, saved):
    gallery = module("gallery")
    console = gallery.Console(quiet=True)
    read = gallery.Material(gallery.Settings(epochs=3), saved, console).network
    np.testing.assert_array_equal(read.c1.bias[...], np.arange(6))
    kernel = gallery.LeNet((28, 28), rngs=nnx.Rngs(0)).c3.kernel[...]
    np.testing.assert_array_equal(read.c3.kernel[...], kernel)


def test_a_run_of_another_seed(module, saved, tmp_path, capsys):
    arguments = ["--run", saved, "--seed", 1, "--out", tmp_path, "--only", "kernels"]
    assert module("gallery").main([str(argument) for argument in arguments]) == 2
    assert "was written with seed 0" in capsys.readouterr().err
    assert len([*(saved / "checkpoints").iterdir()]) == 1  # it is left as it was


# The numbers.


def test_path_is_the_closed_form(module):
    found = module("gallery_images").path_of_log_a()
    np.testing.assert_allclose(found.values, [30, 6])
    np.testing.assert_allclose(found.factors, [-0.8, 0.64])
    np.testing.assert_allclose(found.modes * np.sqrt(2), [[1, 1], [1, -1]])
    true = np.array([1.0, -1.0])
    e = np.array([-0.60156843, -0.53401201]) - true
    in_modes = np.array([e[0] + e[1], e[0] - e[1]]) / np.sqrt(2)
    steps = np.arange(11)[:, None]
    decayed = in_modes * np.array([-0.8, 0.64]) ** steps
    points = true + decayed @ np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    np.testing.assert_allclose(found.kernels, points, atol=1e-6)
    losses = (decayed**2 @ [30, 6])[:10]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    printed = [f"{loss:.3f}" for loss in found.losses[1::2]]
    assert printed == ["17.632", "5.952", "2.225", "0.876", "0.353"]


@pytest.mark.parametrize(
    ("layer", "size", "first"),
    [("C1", 5, 11), ("S2", 6, 10), ("C3", 14, 6), ("S4", 16, 6), ("C5", 32, -2)],
)
def test_receptive_fields(module, untrained, layer, size, first):
    network = module("gallery_network")
    images = np.random.default_rng(0).random((8, 28, 28), np.float32)
    found = network.seen(untrained, images, layer)  # compares with jax.grad itself
    assert found.size == (size, size)
    assert found.start == (first, first)
    rows, columns = np.nonzero(found.slopes)
    inside = range(max(first, 0), min(first + size, 28))
    assert {*rows} == {*columns} == {*inside}
    assert len(rows) == len(inside) ** 2


def test_a_wrong_receptive_field_is_told(module, untrained, monkeypatch):
    network = module("gallery_network")
    monkeypatch.setitem(network.LAYERS, "C1", ((5, 5), 1, 1))
    with pytest.raises(network.DisagreementError, match="C1's receptive field"):
        network.seen(untrained, np.ones((2, 28, 28), np.float32), "C1")


def test_gradients(module, untrained):
    network = module("gallery_network")
    image = np.random.default_rng(1).random((28, 28), np.float32)
    found = network.slopes_of_c1(untrained, image, 4)  # compares with jax.grad itself

    def loss(kernel, x):
        copy = nnx.clone(untrained)
        copy.c1.kernel[...] = kernel
        return -jax.nn.log_softmax(copy(x))[0, 4]

    kernel, x = untrained.c1.kernel[...], jnp.asarray(image)[None, ..., None]
    dw, dx = jax.grad(loss, argnums=(0, 1))(kernel, x)
    np.testing.assert_allclose(found.kernel_grad, dw, atol=1e-5 * np.abs(dw).max())
    np.testing.assert_allclose(found.input_grad, dx, atol=1e-5 * np.abs(dx).max())
    # The figure's two formulas, by NumPy alone.
    padded, delta = np.pad(image, 2), np.asarray(found.delta)[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28))
    by_hand = np.einsum("abij,ijp->abp", windows, delta)
    np.testing.assert_allclose(by_hand, dw[:, :, 0], atol=1e-5 * np.abs(dw).max())
    wide = np.lib.stride_tricks.sliding_window_view(
        np.pad(delta, [(4, 4), (4, 4), (0, 0)]), (5, 5), (0, 1)
    )
    full = np.einsum("ijpab,abp->ij", wide, np.asarray(kernel)[::-1, ::-1, 0])[2:-2, 2:-2]
    np.testing.assert_allclose(full, dx[0, ..., 0], atol=1e-5 * np.abs(dx).max())


def test_an_edge_moved_by_a_pixel(module):
    (image, edges, maxima), (moved, moved_edges, moved_maxima) = module(
        "gallery_images"
    ).moved_edge()
    np.testing.assert_array_equal(image[:, :-1], moved[:, 1:])
    np.testing.assert_array_equal(edges[0], [0, 1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(moved_edges[0], [0, 0, 1, 0, 0, 0, -1])
    assert np.all(maxima[:, 1] == 1)
    assert np.all(moved_maxima[:, 1] == 1)


def test_borders(module):
    images = module("gallery_images")
    grey = np.random.default_rng(2).random((20, 24), np.float32)
    modes: dict[str, Any] = {
        "zeros": "constant",
        "reflect": "reflect",
        "replicate": "edge",
        "circular": "wrap",
    }
    for border in images.BORDERS:
        padded, edges = images.bordered(grey, border)
        np.testing.assert_allclose(padded, np.pad(grey, border.padding, modes[border.mode]))
        lost = images.BLUR - 1 - 2 * border.padding
        assert edges.shape == (20 - lost, 24 - lost)
        level = images.bordered(np.ones_like(grey), border)[1]
        assert (level.max() > 0.1) == (border.mode == "zeros" and border.padding > 0)


def test_tiles(module):
    maps = np.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    tiled = module("gallery_style").tile(maps, 2, 1)
    assert tiled.shape == (3 * 2 + 2, 2 * 3 + 1)
    np.testing.assert_array_equal(tiled[3:5, 4:7], maps[..., 3])
    np.testing.assert_array_equal(tiled[6:8, :3], maps[..., 4])
    assert np.isnan(tiled[2]).all()
    assert np.isnan(tiled[6:8, 4:]).all()
    assert np.isnan(tiled).sum() == tiled.size - maps.size


# Bad input: one line, exit code 2.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "paths"), "no figure is called 'paths'"),
        (("--out", "file/figures"), "cannot make"),
        (("--out", "file"), "cannot make"),
        (("--run", "nowhere", "--only", "kernels"), "no directory of lenet.py"),
    ],
)
def test_bad_input(module, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert module("gallery").main(["--out", "figures", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gallery: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not [*Path().rglob("*.png")]


def test_numbers_that_disagree_fail(module, tmp_path, capsys, monkeypatch):
    gallery = module("gallery")

    def wrong(_):
        raise gallery.DisagreementError("dW is not dW")

    monkeypatch.setitem(gallery.FIGURES, "path", wrong)
    assert gallery.main(["--only", "path", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "gallery: dW is not dW\n"


@pytest.mark.parametrize("arguments", [("--epochs", "0"), ("--seed", "-1"), ("--seed", "x")])
def test_bad_numbers(module, arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        module("gallery").main([*arguments])
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err
