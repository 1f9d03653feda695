"""The models' benchmark: what it computes and prints. No test looks at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "models.py"


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    command = [sys.executable, str(SCRIPT), "--seconds", "0.001", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.full
def test_a_model_with_all_that_is_measured(tmp_path):
    numbers, chart = tmp_path / "models.json", tmp_path / "models.png"
    ran = run("--only", "Mamba", "--json", str(numbers), "--chart", str(chart))
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "plain, training step: geometric mean" in ran.stdout
    assert "torch, forward: geometric mean" in ran.stdout
    forward, step = json.loads(numbers.read_text())["rows"]
    assert [row["pass"] for row in (forward, step)] == ["forward", "training step"]
    for row in (forward, step):
        assert row["apart"] <= 1e-12
        assert max(row["plain error"], row["accelerated error"]) <= 1e-5
        assert row["ratio plain"] == row["plain"] / row["accelerated"]
    assert chart.stat().st_size > 5000


def test_gradients_that_differ_are_told(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    models = pytest.importorskip("models")
    row = {"plain error": 1e-6, "accelerated error": 5e-5, "apart": 1e-14}
    assert models.agree(row)
    assert models.agree({**row, "plain error": 1e-2, "accelerated error": 3e-2})
    assert not models.agree({**row, "plain error": 1e-2, "accelerated error": 5e-2})
    assert not models.agree({**row, "accelerated error": 2e-4})
    assert not models.agree({**row, "apart": 2e-4})
    assert models.difference({"a": [3.0], "b": 4.0}, {"a": [0.0], "b": 2.0}) == pytest.approx(
        13**0.5 / 2
    )


def test_bad_input():
    ran = run("--only", "AlexNet")
    assert ran.returncode == 2
    assert ran.stderr.strip().endswith("models: no model has 'AlexNet' in its name")
