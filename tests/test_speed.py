"""The benchmark: what it computes and prints. No test looks at a time."""

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxconv as jc

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "speed.py"


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    command = [sys.executable, str(SCRIPT), "--seconds", "0.001", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("speed", SCRIPT)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def test_a_cell_with_all_that_can_be_measured(tmp_path):
    numbers, chart = tmp_path / "speed.json", tmp_path / "speed.png"
    ran = run("--only", "LeNet 5x5, first", "--repeat", "2", "--in-scan", "--memory", "--compile",
              "--no-torch", "--json", str(numbers), "--chart", str(chart))  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "geometric mean" in ran.stdout
    found = json.loads(numbers.read_text())
    assert found["machine"]["jax"]
    assert [row["pass"] for row in found["rows"]] == [
        "forward", "input gradient", "kernel gradient"
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["error"] < 1e-5
        for key in ("jaxconv first", "lax last", "ratio lax", "ratio layout", "ratio scan",
                    "memory jaxconv last", "compile lax first"):  # fmt: skip
            assert row[key] >= 0
            assert math.isfinite(row[key])
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.full
def test_pools_transposed_and_double_precision():
    for only in ("max 3-D", "U-Net 2x2 s2 transposed, kernel"):
        ran = run("--only", only, "--dtype", "float64")
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_better_of_two_measurements(speed):
    """Each time the lesser, and ratios of what is left; a difference that is no number stays."""
    times = {"jaxconv first": 2.0, "jaxconv last": 3.0, "lax first": 8.0, "lax last": 6.0}
    row = {"cell": "a", "pass": "b", "dtype": "float32", "error": 0.5} | times
    other = row | {"jaxconv last": 1.0, "lax last": 7.0, "error": math.nan}
    for found in (speed.better(row, other), speed.better(other, row)):
        assert (found["jaxconv first"], found["jaxconv last"], found["lax last"]) == (2, 1, 6)
        assert (found["ratio lax"], found["ratio layout"]) == (6, 4)
        assert math.isnan(found["error"])


def test_bad_input_is_one_line():
    ran = run("--only", "no such layer")
    assert ran.returncode == 2
    assert ran.stderr.strip() == "speed: no cell or pass has 'no such layer' in its name"


def test_a_wrong_result_is_said(speed, monkeypatch, capsys):
    """With lax's side of the kernel gradient turned around, the comparison must fail."""
    right = speed.laxs
    monkeypatch.setattr(speed, "laxs", lambda cell, last: lambda *a: -right(cell, last)(*a))
    code = speed.main(["--only", "LeNet 5x5, first, forward", "--no-torch", "--seconds", "0.001"])
    assert code == 1
    assert "LeNet 5x5, first, forward differs from lax by 2.0e+00" in capsys.readouterr().out


def test_ratios_are_of_the_best_layouts(speed):
    row = {"jaxconv first": 2.0, "jaxconv last": 1.0, "lax first": 3.0, "lax last": 4.0,
           "torch": 0.5, "torch last": 2.0}  # fmt: skip
    assert speed.ratios(row) == {"ratio lax": 3.0, "ratio layout": 1.5, "ratio torch": 0.5}
    assert speed.geometric_mean([2, 8]) == pytest.approx(4)


def test_each_call_takes_its_turn(speed):
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    speed.interleave(calls, 0.01)
    first = order[2:].index("b")
    assert "a" in order[2 + first :]


def test_every_kind_of_work_of_the_list_has_its_cell(speed):
    names = " ".join(cell.name for cell in speed.CELLS)
    for word in ("LeNet", "stem", "1x1 up", "1x1 down", "VGG", "depthwise 3x3 s2", "5x5", "7x7",
                 "patches 4x4", "32 groups", "2 groups", "multiplier", "DeepLab", "U-Net", "DCGAN",
                 "WaveNet", "causal", "audio", "3-D 3x3x3", "3-D depthwise", "31x31", "batch 1",
                 "batch 32", "ViT", "max 15x15", "max 3-D", "avg 15x15", "avg global"):  # fmt: skip
        assert word in names


def test_layers_by_lot_are_the_same_for_the_same_seed_and_can_be_run(speed):
    cells = speed.drawn(40, 3)
    assert cells == speed.drawn(40, 3)
    assert cells != speed.drawn(40, 4)
    assert len({cell.name for cell in cells}) == 40
    assert {cell.kind for cell in cells} >= {"conv", "conv_transpose", "max_pool", "avg_pool"}
    for cell in cells:
        shapes = [cell.image] if cell.pool else [cell.image, cell.kernel]
        arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
        options = cell.options | ({"window": cell.kernel} if cell.pool else {})
        call = functools.partial(getattr(jc, cell.kind), **options)
        assert jax.eval_shape(call, *arrays).size
