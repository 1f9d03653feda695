"""`experiments/verify_gradients.py`: it covers everything public, and says what is wrong."""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import jaxconv as jc

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "verify_gradients.py"
RESULTS = ROOT / "experiments" / "results" / "verify_gradients.txt"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_gradients", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verify_gradients = load()
CASES = verify_gradients.all_cases()


def public():
    """Every public function with a derivative, and its options."""
    found = {name: value for name, value in vars(jc).items() if inspect.isfunction(value)}
    found["filters.apply"] = jc.filters.apply
    for name, value in vars(jc.gradients).items():
        if inspect.isfunction(value) and value.__module__ == "jaxconv.gradients":
            found[f"gradients.{name}"] = value
    return {
        name: [p for p in inspect.signature(value).parameters.values() if p.default is not p.empty]
        for name, value in found.items()
        if name not in ("accelerate", "algorithms", "explain")
        and not name.rpartition(".")[2].startswith("_")
    }


PUBLIC = public()
#: The closed forms' own derivatives are those of the functions, whose options are all there.
OPTIONS_OF = {name: options for name, options in PUBLIC.items() if "gradients." not in name}


def test_every_public_function_is_there():
    assert {"conv", "max_unpool", "filters.apply", "gradients.conv_bias_grad"} <= set(PUBLIC)
    assert {case.function for case in CASES} == set(PUBLIC)


@pytest.mark.parametrize("name", OPTIONS_OF)
def test_every_option_is_there(name):
    """Each option with a value that is not its default."""
    given = [{**case.static, **case.options} for case in CASES if case.function == name]
    most = max(len(case.arrays) for case in CASES if case.function == name and not case.in_parts)
    arrays = list(inspect.signature(getattr(jc, name, jc.filters.apply)).parameters)[:most]
    for option in OPTIONS_OF[name]:
        values = [options[option.name] for options in given if option.name in options]
        used = any(value is not option.default and value != option.default for value in values)
        assert used or option.name in arrays, option.name


def test_cases_have_names_of_their_own():
    names = [(case.function, case.option) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", ["conv", "conv_transpose", "max_pool", "avg_pool", "fold", "unfold"]
)
def test_closed_forms_are_used_where_there_are_some(name):
    cases = [case for case in CASES if case.function == name]
    without = [case.option for case in cases if case.closed_form is None]
    assert len(without) <= {"conv": 1, "conv_transpose": 6}.get(name, 0), without


def test_it_prints_one_table(capsys):
    assert verify_gradients.main(["--only", "corr2d", "--order", "1"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("jax ")
    heads = "function option closed form forward reverse adjoint 2nd order kinks"
    assert lines[1].split() == heads.split()
    (row,) = [line.split() for line in lines if line.startswith("corr2d ")]
    assert row[1] == "plain"
    assert all(float(error) < 1e-9 for error in row[2:6])
    assert row[6:] == ["-", "ok"]
    assert lines[-1].startswith("1 cases of 1 functions, 1 with a closed form; ")
    assert lines[-1].endswith("; 0 wrong")
    assert "\x1b" not in out


def test_what_is_wrong_is_told(capsys, monkeypatch):
    (right,) = [case for case in CASES if case.function == "corr2d"]
    wrong = right._replace(
        closed_form=lambda X, K, dy: (jc.convolve(dy, K[::-1, ::-1]), jc.corr2d(X, dy))
    )
    monkeypatch.setattr(verify_gradients, "all_cases", lambda: [right, wrong])
    assert verify_gradients.main(["--order", "1"]) == 1
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("corr2d  ")] == [
        "ok",
        "WRONG",
    ]
    assert "\nlikely: kernel not rotated\n" in out
    assert out.splitlines()[-1].endswith("; 1 wrong")


def test_ties_are_counted(capsys):
    (case,) = [c for c in CASES if (c.function, c.option) == ("adaptive_max_pool", "ties")]
    row = verify_gradients.check(case, 1)
    assert row.report.ok
    assert int(row.cells[-2]) == len(row.report.kinks) > 0


def test_unknown_functions_are_refused(capsys):
    assert verify_gradients.main(["--only", "conv4d"]) == 2
    assert capsys.readouterr().err == "verify_gradients: --only: no function 'conv4d'\n"


def test_functions_of_complex_numbers_in_parts():
    fn = verify_gradients._of_parts(lambda a, b: a * b)
    got = fn(np.array(1.0), np.array(2.0), np.array(3.0), np.array(4.0))
    assert got.tolist() == [-5.0, 10.0]


def test_it_runs_by_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "corr2d", "--order", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_kept_table_is_of_these_cases():
    lines = RESULTS.read_text().splitlines()
    assert lines[0] == "$ python experiments/verify_gradients.py"
    assert lines[1].startswith("jax ")
    table = [line for line in lines[3:] if line.endswith(" ok")]
    assert len(table) == len(CASES)
    for line, case in zip(table, CASES, strict=True):
        assert line.startswith(f"{case.function} ")
        assert f" {case.option} " in line
        assert ("  -  " in line[:70]) == (case.closed_form is None)
    assert lines[-1].endswith("; 0 wrong")
    assert lines[-1].startswith(f"{len(CASES)} cases of {len(PUBLIC)} functions")
