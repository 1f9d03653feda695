"""The training script: its data, its steps beside torch's, and what it survives.

A run that is killed ends as one that is not, whatever it is killed at. The processes are really
started and really killed; the rest runs in this one.
"""

import csv
import functools
import gzip
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import jax
import lenet
import lenet_data
import lenet_kills
import lenet_networks
import lenet_training
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "lenet.py"

SHORT = ("--epochs", "5", "--seed", "3", "--batch", "64")


@pytest.fixture(autouse=True)
def settings_of_a_script():
    """JAX as a user's script has it."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **more}


def run(*arguments):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), check=False
    )


def weights(output):
    (found,) = re.findall(r"^weights ([0-9a-f]{64})$", output, re.MULTILINE)
    return found


def rows(out):
    with (out / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run from the beginning to the end: its directory and what it printed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(*SHORT, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


# The digits and the IDX files.


def test_digits():
    data = lenet_data.digits(0)
    assert data.train.images.shape == (1437, 28, 28)
    assert data.held_out.images.shape == (360, 28, 28)
    for images, labels in data[1:]:
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert 0 <= images.min() < 0.01
        assert 0.99 < images.max() <= 1
        assert np.bincount(labels).min() >= len(labels) / 11
    together = np.concatenate([part.images.reshape(len(part.images), -1) for part in data[1:]])
    assert len(np.unique(together, axis=0)) == 1797  # nothing is in both parts
    assert np.array_equal(lenet_data.digits(0).held_out.images, data.held_out.images)
    assert not np.array_equal(lenet_data.digits(1).held_out.labels, data.held_out.labels)


def idx(array):
    magic = {3: 0x803, 1: 0x801}[array.ndim]
    sizes = struct.pack(f">{array.ndim + 1}I", magic, *array.shape)
    return sizes + array.astype(np.uint8).tobytes()


def four_files(directory, ending="", train=96, held_out=32, side=28, dash="-"):
    """Four IDX files: each image a bright patch whose place is its class."""
    rng = np.random.default_rng(0)
    directory.mkdir(exist_ok=True)
    made = {}
    for part, count in (("train", train), ("t10k", held_out)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, side, side))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4, 4:-4] += 150
        for kind, axes, array in (("images", 3, images), ("labels", 1, labels)):
            content = idx(array)
            content = gzip.compress(content) if ending else content
            (directory / f"{part}-{kind}{dash}idx{axes}-ubyte{ending}").write_bytes(content)
        made[part] = images, labels
    return made


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dash", ["-", "."])
def test_idx_files_are_read(tmp_path, ending, dash):
    made = four_files(tmp_path, ending, dash=dash)
    data = lenet_data.read_directory(tmp_path)
    assert data.name == tmp_path.name
    for part, (images, labels) in zip(data[1:], made.values(), strict=True):
        np.testing.assert_array_equal(part.labels, labels)
        np.testing.assert_allclose(part.images, images / 255, rtol=1e-6)
        assert part.images.dtype == np.float32


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def change(name, how):
    """A kind of damage: the file of that name, its bytes changed."""

    def damage(directory):
        path = directory / name
        path.write_bytes(how(path.read_bytes()))

    return damage


def to_gzip(how):
    """A kind of damage to a gzipped file."""

    def damage(directory):
        path = directory / IMAGES
        (directory / f"{IMAGES}.gz").write_bytes(how(gzip.compress(path.read_bytes())))
        path.unlink()

    return damage


def rewritten(name, array):
    return change(name, lambda content: idx(array))


DAMAGE = {
    "missing": (lambda at: (at / LABELS).unlink(), f"has no file {LABELS} or {LABELS}.gz"),
    "no bytes": (change(IMAGES, lambda b: b""), "is truncated: 0 bytes, no magic number"),
    "no header": (change(IMAGES, lambda b: b[:9]), "is truncated: 9 bytes, its header has 16"),
    "truncated": (
        change(IMAGES, lambda b: b[:-1]),
        "is truncated: sizes (96, 28, 28) need 75264 bytes; got 75263",
    ),
    "too long": (change(LABELS, lambda b: b + b"\0\0"), "is too long: sizes (32,) need 32 bytes"),
    "wrong magic": (
        change(IMAGES, lambda b: b"\x89PNG" + b[4:]),
        "the magic number of images is 0x00000803; got 0x89504e47 (not MNIST's)",
    ),
    "labels for images": (
        rewritten(IMAGES, np.zeros(96)),
        "the magic number of images is 0x00000803; got 0x00000801 (labels)",
    ),
    "counts disagree": (
        rewritten(LABELS, np.zeros(31)),
        f"holds 32 images, but {LABELS} 31 labels",
    ),
    "label out of range": (
        rewritten(LABELS, np.arange(32) % 11),
        "labels are 0 to 9; number 10 is 10",
    ),
    "empty": (rewritten(IMAGES, np.zeros((0, 28, 28))), "is empty: sizes (0, 28, 28)"),
    "other size": (
        rewritten(IMAGES, np.zeros((96, 20, 28))),
        "train images are (20, 28), t10k images (28, 28)",
    ),
    "gzip cut": (to_gzip(lambda b: b[:-20]), "is damaged: not a whole gzip file (Compressed file"),
    "gzip changed": (
        to_gzip(lambda b: b[:2000] + bytes([b[2000] ^ 255]) + b[2001:]),
        "is damaged: not a whole gzip file (",
    ),
    "no gzip": (to_gzip(lambda b: b"plain" + b), "is damaged: not a whole gzip file (Not a gzipp"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_told(tmp_path, capsys, damage, message):
    directory = tmp_path / "files"
    four_files(directory)
    damage(directory)
    code = lenet.main(["--data", str(directory), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("lenet: ")
    assert str(directory) in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_files_of_ones_own_are_learned(tmp_path, capsys):
    four_files(tmp_path / "patches", ".gz", side=20)
    options = ["--data", str(tmp_path / "patches"), "--out", str(tmp_path / "out")]
    options += ["--epochs", "12", "--batch", "16", "--shift", "0"]
    assert lenet.main(options) == 0
    assert "patches: 96 images to learn, 32 held out; lenet, adamw, one " in capsys.readouterr().out
    assert rows(tmp_path / "out")[-1]["held_out_accuracy"] == 1


# The networks and their training.


@pytest.mark.parametrize(
    ("name", "parameters", "shapes"),
    [
        (
            "lenet",
            61_706,
            "C1 28x28x6, S2 14x14x6, C3 10x10x16, S4 5x5x16, C5 1x1x120, F6 84, output 10",
        ),
        (
            "all-conv",
            72_442,
            "C1 28x28x16, C2 14x14x16, C3 14x14x32, C4 7x7x32, C5 7x7x64, C6 4x4x64, output 10",
        ),
    ],
)
def test_networks(name, parameters, shapes):
    make = functools.partial(lenet_networks.NETWORKS[name], (28, 28))
    network = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == parameters
    made = nnx.eval_shape(lambda n, x: n.layers(x), network, np.ones((3, 28, 28, 1), np.float32))
    assert set(shapes.split(", ")) == {
        f"{name} {'x'.join(map(str, array.shape[1:]))}" for name, array in made.items()
    }
    assert {len(array) for array in made.values()} == {3}


@pytest.mark.parametrize("name", lenet_networks.NETWORKS)
def test_networks_of_small_images(name):
    side = lenet_networks.SMALLEST
    network = nnx.eval_shape(lambda: lenet_networks.NETWORKS[name]((side, side), rngs=nnx.Rngs(0)))
    logits = nnx.eval_shape(lambda n, x: n(x), network, np.ones((2, side, side, 1), np.float32))
    assert logits.shape == (2, 10)


def test_an_epoch_is_every_image_once_and_its_own():
    settings = lenet_training.Settings(batch=10, shift=2, seed=5)
    first, again, second = (
        list(lenet_training.batches(settings, 105, epoch)) for epoch in (0, 0, 1)
    )
    assert len(first) == lenet_training.steps_of(settings, 105) == 10
    seen = np.concatenate([batch.chosen for batch in first])
    assert len(set(seen.tolist())) == 100
    assert set(seen.tolist()) <= set(range(105))
    assert not np.array_equal(seen, np.concatenate([batch.chosen for batch in second]))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    shifts = np.concatenate([batch.shifts for batch in first])
    assert sorted(set(shifts.ravel().tolist())) == [-2, -1, 0, 1, 2]


def test_an_image_is_moved():
    image = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3, 1)
    framed = np.pad(image, [(1, 1), (1, 1), (0, 0)])
    moved = lenet_training._moved(framed, np.array([1, -1]), size=(3, 3), by=1)
    assert moved[..., 0].tolist() == [[0, 4, 5], [0, 7, 8], [0, 0, 0]]


@pytest.mark.thinned(7)
@pytest.mark.parametrize("network", lenet_networks.NETWORKS)
@pytest.mark.parametrize("optimiser", lenet_training.RATES)
def test_steps_are_torchs(network, optimiser):
    """The same weights after steps of the same rates on the same batches, in another framework."""
    import lenet_torch

    data = lenet_data.digits(0)
    small = lenet_data.Images(data.train.images[:80], data.train.labels[:80])
    data = data._replace(train=small, held_out=small)
    settings = lenet_training.Settings(
        network, optimiser, rate=1e-3, decay=0.1, epochs=2, batch=16, shift=2, seed=1
    )
    ours = lenet.train(settings, data)
    theirs = lenet_torch.train(lenet_training.Trainer(settings, data), data)
    np.testing.assert_allclose([row["loss"] for row in ours.history], theirs.losses, rtol=1e-4)
    assert ours.history[-1]["held_out_accuracy"] == pytest.approx(theirs.accuracy, abs=0.03)
    assert ours.history[0]["loss"] != pytest.approx(ours.history[1]["loss"], rel=1e-3)


def test_the_objective_is_the_notes():
    data = lenet_data.digits(0)
    settings = lenet_training.Settings(optimiser="sgd", rate=0.0, decay=0.01, epochs=1, batch=64)
    trainer = lenet_training.Trainer(settings, data)
    state = trainer.start._replace(weights=jax.tree.map(lambda leaf: leaf + 0.01, trainer.start[0]))
    start = trainer.network(state)
    batch = next(lenet_training.batches(settings, trainer.count, 0))
    kernels = [np.asarray(leaf, float) for leaf in jax.tree.leaves(nnx.state(start))]
    images = np.pad(data.train.images, [(0, 0), (4, 4), (4, 4)])[batch.chosen]
    moved = [
        image[4 + down : 32 + down, 4 + right : 32 + right]
        for image, (down, right) in zip(images, batch.shifts, strict=True)
    ]
    logits = np.asarray(start(np.stack(moved)[..., None]), float)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entropy = -log_softmax[np.arange(64), data.train.labels[batch.chosen]].mean()
    decay = 0.01 * sum((kernel**2).sum() for kernel in kernels if kernel.ndim > 1)
    _, figures = trainer.step(state, batch)
    assert float(figures.loss) == pytest.approx(entropy + decay, rel=1e-5)


def test_adamws_decay_is_of_kernels_alone():
    settings = lenet_training.Settings(rate=0.5, decay=0.1, epochs=1, batch=1)
    weights = {"kernel": np.full((2, 3), 4.0), "bias": np.full(3, 4.0)}
    weights = jax.tree.map(jax.numpy.asarray, weights)
    steps = lenet_training.optimiser(settings, count=10)
    zero = jax.tree.map(lambda leaf: 0 * leaf, weights)
    updates: Any = steps.update(zero, steps.init(weights), weights)[0]
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1 * 4, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_the_same_seed_gives_the_same_bits(undisturbed, tmp_path):
    out, printed = undisturbed
    again = run(*SHORT, "--out", tmp_path / "again")
    assert weights(again.stdout) == weights(printed)
    timed = {"images_per_second", "seconds"}
    for one, other in zip(rows(out), rows(tmp_path / "again"), strict=True):
        assert {key: one[key] for key in one.keys() - timed} == {
            key: other[key] for key in other.keys() - timed
        }


def test_metrics_and_lines(undisturbed):
    out, printed = undisturbed
    table = rows(out)
    assert [row["epoch"] for row in table] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in table] == [22, 44, 66, 88, 110]
    assert tuple(table[0]) == lenet.COLUMNS
    assert table[0]["rate"] == pytest.approx(lenet_training.RATES["adamw"])
    assert table[-1]["loss"] < table[0]["loss"]
    assert table[-1]["held_out_accuracy"] > 0.8
    lines = printed.splitlines()
    assert [line.split("  ")[0] for line in lines[1:6]] == [f"epoch {n}/5" for n in range(1, 6)]
    for line, row in zip(lines[1:6], table, strict=True):
        assert f"loss {row['loss']:.4f}" in line
        assert f"held out {row['held_out_accuracy']:.4f}" in line
        assert "images/s" in line
    assert "\x1b" not in printed


def test_a_bar_on_a_terminal():
    screen = StringIO()
    bar = lenet.Bar(Console(file=screen, force_terminal=True, width=120), 100)
    with bar.progress:
        bar.show(50, 2, lenet_training.Figures(0.5, 0.75), 1234.0)
    shown = screen.getvalue()
    assert "epoch 2  loss 0.5000  accuracy 0.750  1,234 images/s" in shown
    assert "left" in shown


# What a run survives.


@pytest.mark.full
def test_killed_ten_times():
    """Ten kills of one run, at moments drawn at random: while it starts, compiles, steps, saves."""
    kills = [
        sys.executable,
        str(SCRIPT.parent / "lenet_kills.py"),
        "--kills",
        "10",
        "--epochs",
        "30",
        "--seed",
        "3",
    ]
    done = subprocess.run(kills, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nthe same, bit for bit\n")
    (kills,) = re.findall(r"^killed (\d+) times, then left alone", done.stdout, re.M)
    assert int(kills) >= 8  # a quick machine may come to the end
    states = re.findall(r"^kill .*(going on after step \d+|starting)", done.stdout, re.M)
    assert len(set(states)) > 1


def test_kills_that_change_something_are_told(monkeypatch, capsys):
    monkeypatch.setattr(lenet_kills, "train", lambda out, options: f"weights of {out.name}")
    assert lenet_kills.main(["--kills", "0"]) == 1
    assert capsys.readouterr().out.endswith("\nNOT the same\n")


def test_killed_after_the_last_checkpoint(undisturbed, tmp_path, capsys):
    """What is done is not done again, and the table is whole."""
    out = shutil.copytree(undisturbed[0], tmp_path / "run")
    (out / "metrics.csv").unlink()
    assert lenet.main([*SHORT, "--out", str(out), "--resume"]) == 0
    assert weights(capsys.readouterr().out) == weights(undisturbed[1])
    assert rows(out) == rows(undisturbed[0])


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(checkpoint):
    """One byte in the middle of the largest file changed."""
    path = max(files_of(checkpoint / "state"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(checkpoint):
    """Half of the largest file gone."""
    path = max(files_of(checkpoint / "state"), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def forget(checkpoint):
    """The record gone."""
    shutil.rmtree(checkpoint / "record")


def empty(checkpoint):
    """No sums in the list of them."""
    (checkpoint / "sha256.json").write_text("{}")


def interrupt(checkpoint):
    """Killed after orbax was done, before the sums were written."""
    (checkpoint / "sha256.json").unlink()


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, r"state/\S+ is another"),
        (cut, r"state/\S+ is another"),
        (forget, r"record/\S+ is gone"),
        (empty, "sha256.json is another"),
        (interrupt, "it was not written to its end"),
    ],
)
def test_a_damaged_checkpoint_falls_back(undisturbed, tmp_path, capsys, damage, told):
    out = shutil.copytree(undisturbed[0], tmp_path / "run")
    damage(out / "checkpoints" / "110")
    assert lenet.main([*SHORT, "--out", str(out), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        rf"^checkpoint 110 is damaged \({told}\); trying the one before$", printed, re.M
    )
    assert "\ngoing on after step 88\n" in printed
    assert weights(printed) == weights(undisturbed[1])


def test_all_checkpoints_damaged(undisturbed, tmp_path, capsys):
    out = shutil.copytree(undisturbed[0], tmp_path / "run")
    for checkpoint in (out / "checkpoints").iterdir():
        forget(checkpoint)
    assert lenet.main([*SHORT, "--out", str(out), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("is damaged") == 3
    assert "\nstarting at step 0\n" in printed
    assert weights(printed) == weights(undisturbed[1])


def test_a_loss_that_is_not_finite_stops(tmp_path, capsys):
    out = tmp_path / "run"
    options = ("--optimiser", "sgd", "--rate", "1e9", "--epochs", "3")
    assert lenet.main([*options, "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"lenet: the loss is (nan|inf) at step \d+", line)
    kept = f"the last good checkpoint is {out}/checkpoints/0"
    assert line.endswith(f"; {kept}; a smaller --rate may help")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["0"]


def test_weights_that_are_not_finite_are_not_kept():
    """The last step of an epoch may spoil the weights after its loss was taken."""
    trainer = lenet_training.Trainer(lenet_training.Settings(), lenet_data.digits(0))
    losses = np.ones(44)
    lenet._refuse_what_is_not_finite(losses, trainer.start, 0)
    spoilt = jax.tree.map(lambda leaf: leaf, trainer.start)
    spoilt.weights["c3"]["bias"][...] = spoilt.weights["c3"]["bias"][...].at[3].set(np.inf)
    with pytest.raises(lenet.NotFiniteError, match=r"^a weight is not finite after step 132$"):
        lenet._refuse_what_is_not_finite(losses, spoilt, 88)


def test_a_held_out_loss_that_is_not_finite_stops(tmp_path, capsys):
    options = ("--batch", "1437", "--epochs", "1", "--optimiser", "sgd", "--rate", "1e20")
    assert lenet.main([*options, "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"lenet: the held-out loss is (nan|inf) after step 1; the last good", line)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0"]


def test_the_step_of_a_nan_is_the_right_one(tmp_path):
    """A NaN in the images of one batch is found at that batch, and the epoch before is kept."""
    data = lenet_data.digits(0)
    settings = lenet_training.Settings(epochs=3, batch=100, shift=0)
    second = list(lenet_training.batches(settings, 1437, 0))[1]
    data.train.images[second.chosen[7]] = np.nan
    with pytest.raises(lenet.NotFiniteError, match=r"^the loss is nan at step 2$"):
        lenet.train(settings, data)


@pytest.mark.full
def test_a_batch_over_four_devices(tmp_path):
    options = ("--epochs", "3", "--batch", "64", "--optimiser", "sgd")
    one = run(*options, "--out", tmp_path / "one")
    four = run(*options, "--out", tmp_path / "four", "--data-parallel", "4")
    assert four.returncode == 0, four.stderr
    assert "4 cpu devices" in four.stdout
    for name in ("loss", "held_out_loss"):
        losses = [[row[name] for row in rows(tmp_path / out)] for out in ("one", "four")]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    assert weights(one.stdout) != weights(four.stdout)  # it was another sum


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "1438"), "--batch 1438 is more than the 1437 images to train on"),
        (("--batch", "10", "--data-parallel", "1000"), "--batch 10 cannot be split over --data"),
        (("--data", "nowhere"), "'nowhere' is not a directory"),
        (("--resume", "--fresh"), "--resume and --fresh exclude each other"),
        (("--shift", "28"), "--shift 28 moves images of 28x28 out of sight"),
    ],
)
def test_bad_input(tmp_path, capsys, options, message):
    assert lenet.main([*options, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lenet: {message}")


def test_small_images_are_refused(tmp_path, capsys):
    four_files(tmp_path / "small", side=20)
    cut_down = np.zeros((96, 11, 20)), np.zeros((32, 11, 20))
    for part, images in zip(("train", "t10k"), cut_down, strict=True):
        (tmp_path / "small" / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
    assert lenet.main(["--data", str(tmp_path / "small"), "--out", str(tmp_path / "run")]) == 2
    assert "12 pixels or more to a side; got 11x20" in capsys.readouterr().err


def test_numbers_that_are_none(capsys):
    for option in (
        "--epochs=0",
        "--batch=x",
        "--rate=nan",
        "--seed=-1",
        f"--seed={2**32}",
        "--network=vgg",
    ):
        with pytest.raises(SystemExit) as stopped:
            lenet.main([option])
        assert stopped.value.code == 2
        assert f"argument {option.split('=')[0]}: invalid" in capsys.readouterr().err


def test_torch_is_looked_for_beforehand(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lenet.importlib.util, "find_spec", lambda name: None)
    assert lenet.main(["--compare-torch", "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("lenet: --compare-torch: torch is not installed (pip install ")
    assert printed.out == ""


# Python takes no SIGINT where it was started with it ignored, as the jobs of some shells are.
INTERRUPTIBLE = """\
import os, signal, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.thinned(3)
@pytest.mark.parametrize("seconds", [0.2, 1.5])
def test_interrupted(tmp_path, seconds):
    """Ctrl-C is an exit code and a line, whatever is being computed or written."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *command("--out", tmp_path / "run", "--resume")[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error == "lenet: interrupted; --resume goes on\n"


def test_a_run_is_not_thrown_away_unasked(undisturbed, tmp_path, capsys):
    out = shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / "110")
    assert lenet.main([*SHORT, "--out", str(out)]) == 2
    assert "holds a run not at its end: --resume goes on, --fresh" in capsys.readouterr().err
    assert lenet.main([*SHORT, "--out", str(out), "--resume", "--rate", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "checkpoints/88 was written with rate 0.002; this run has rate 0.1" in error
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["66", "88"]
    assert lenet.main([*SHORT, "--out", str(out), "--fresh"]) == 0
    assert weights(capsys.readouterr().out) == weights(undisturbed[1])


def test_a_directory_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert lenet.main(["--out", str(tmp_path / "file")]) == 2
    assert f"cannot write to {tmp_path / 'file'}" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    assert lenet.main(["--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'run' / 'checkpoints'} is in the way" in capsys.readouterr().err
