"""`experiments/fuzz.py`: a seeded slice of its calls, and proof that it sees what it looks for."""

import ast
import importlib.util
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

import jaxconv as jc

SCRIPT = Path(__file__).parents[1] / "experiments" / "fuzz.py"


def load() -> ModuleType:
    """The script, with its folder on the path as it is for `python experiments/fuzz.py`."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fuzz"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


fuzz = load()

SLICE = 17  # calls of each function; 612 in all


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", fuzz.DRAWN)
def test_calls_are_answered_right_or_refused_by_name(name):
    kinds, failures = Counter(), []
    with fuzz.limited_memory():
        for number in range(SLICE):
            call = fuzz.drawn(1, number, name)
            outcome = fuzz.check(call)
            kinds[outcome.kind] += 1
            if outcome.kind == "failure":
                failures.append(f"{outcome.what}\n    {call.command}")
    assert not failures, "\n".join(failures)
    assert kinds["equal"], kinds
    assert kinds["TypeError"] or len(fuzz.FUNCTIONS[name].__code__.co_varnames) == 1, kinds


def test_every_public_function_is_drawn():
    modules = {"": jc, "filters.": jc.filters, "geometry.": jc.geometry, "gradients.": jc.gradients}
    found = {
        prefix + name
        for prefix, module in modules.items()
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
        if value.__module__.startswith(
            "jaxconv._" if module in (jc, jc.geometry) else module.__name__
        )
    }
    left_out = {"accelerate", "algorithms", "explain", "geometry.summary"}
    assert found - left_out == set(fuzz.DRAWN) == set(fuzz.FUNCTIONS)


def test_draws_are_mixed_and_the_same_each_time():
    calls = [fuzz.draw_call(0, number, 0) for number in range(2000)]
    assert calls == [fuzz.draw_call(0, number, 0) for number in range(2000)]
    assert calls != [fuzz.draw_call(1, number, 0) for number in range(2000)]
    assert {call.name for call in calls} == set(fuzz.DRAWN)
    assert 200 < sum(call.jit for call in calls) < 1000
    assert 200 < sum(not call.x64 for call in calls) < 1000
    text = " ".join(map(str, calls))
    for piece in (
        "float8", "int4", "'bool'", "complex64", "math.nan", "{1, 2}", "object()", "2**31", "-1",
        "None", "NHWC", "(0, ", "made='jax'", "made='list'", "np.int32",
    ):  # fmt: skip
        assert piece in text, piece


def test_a_call_written_down_is_the_call():
    for number in range(300):
        call = fuzz.draw_call(2, number, 0)
        again = fuzz.parse_call(str(call), call.jit, call.x64)
        assert ast.dump(ast.parse(str(again))) == ast.dump(ast.parse(str(call)))
        assert str(call) in call.command


# The oracle, where others know the answer too.


def answer(name: str, *args: Any, **options: Any) -> Any:
    verdict = fuzz.fuzz_contract.contract(name, args, options, traced=False)
    assert not verdict.faults
    return verdict.answer


def test_the_oracle_knows_the_notes_numbers():
    X, K = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2)
    assert answer("corr2d", X, K).tolist() == [[19, 25], [37, 43]]
    assert answer("pool2d", X, (2, 2), "avg").tolist() == [[2, 3], [5, 6]]
    both = np.stack([X, X + 1]), np.stack([K, K + 1])
    assert answer("corr2d_multi_in", *both).tolist() == [[56, 72], [104, 120]]
    dw = answer("gradients.conv_kernel_grad", X[None], np.ones((1, 2, 2)), (1, 1, 2, 2))
    assert dw.tolist() == [[[[8, 12], [20, 24]]]]
    options = {"padding": (0, 1), "stride": (3, 4)}
    assert answer("geometry.conv_output_shape", (8, 8), (3, 5), **options) == (2, 2)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(("n", "m"), [((7,), (3,)), ((2,), (5,)), ((4, 5), (3, 2))])
def test_the_oracle_correlates_as_scipy(mode, n, m):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n) + 1j * rng.normal(size=n)
    k = rng.normal(size=m) + 1j * rng.normal(size=m)
    for name in ("correlate", "convolve"):
        want = getattr(signal, name)(x, k, mode, method="direct")
        np.testing.assert_allclose(answer(name, x, k, mode), want, rtol=1e-12)


# What is wrong is seen. Functions are exchanged for faulty ones, whose code claims to be jaxconv's.

GOOD = "conv(array((2, 7), 'float32', 3), array((3, 2, 2), 'float32', 4), stride=2)"
BAD = "conv(array((2, 7), 'float32', 3), array((3, 2, 2), 'float32', 4), stride=0)"


def inside(source: str) -> Any:
    """A function `conv` as if it stood in the package."""
    names = {"real": jc.conv, "jax": jax, "jnp": jnp, "warnings": warnings}
    head = "def conv(x, kernel, bias=None, *, stride=1, padding=0):\n    y = real(x, kernel)\n    "
    exec(compile(head + source, str(fuzz.PACKAGE / "_faulty.py"), "exec"), names)
    return names["conv"]


def outcome_of(text: str, jit: bool = False) -> Any:
    return fuzz.check(fuzz.parse_call(text, jit, x64=True))


RIGHT = "real(x, kernel, stride=stride)"
FAULTS = {
    "wrong value": f"return {RIGHT}.at[0, 0].add(1)",
    "wrong value: 1": f"return {RIGHT}.at[1, 1].set(jnp.nan)",
    "wrong shape": f"return {RIGHT}[:, 1:]",
    "wrong dtype": f"return {RIGHT}.astype('bfloat16')",
    "wrong type": f"return tuple({RIGHT})",
    "neither ValueError nor TypeError: JaxRuntimeError": (
        "raise jax.errors.JaxRuntimeError('INTERNAL: x must be something else')"
    ),
    "neither ValueError nor TypeError: AssertionError": "raise AssertionError('x')",
    "neither ValueError nor TypeError: UserWarning": f"warnings.warn('x'); return {RIGHT}",
    "the message names no argument": "raise ValueError('stridex must be at least 1')",
    "raised outside of jaxconv": "jax.lax.conv(x, kernel, (0,), 'VALID')",
    "refused, though the contract allows it": "raise ValueError('stride must be 1')",
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("what", FAULTS)
def test_a_faulty_answer_is_a_failure(what, jit, monkeypatch):
    assert outcome_of(GOOD, jit) == ("equal", "")
    monkeypatch.setattr(jc, "conv", inside(FAULTS[what]))
    kind, found = outcome_of(GOOD, jit)
    assert kind == "failure"
    assert found.startswith(what), found


REFUSALS = {
    "taken, where a refusal is due: ValueError about stride": "return y",
    "due is ValueError about stride; got ValueError: padding": "raise ValueError('padding is bad')",
    "due is ValueError about stride; got TypeError: stride": "raise TypeError('stride is bad')",
    "neither ValueError nor TypeError: UnicodeError": "raise UnicodeError('stride is bad')",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_faulty_refusal_is_a_failure(what, monkeypatch):
    assert outcome_of(BAD) == ("ValueError", "")
    monkeypatch.setattr(jc, "conv", inside(REFUSALS[what]))
    kind, found = outcome_of(BAD)
    assert kind == "failure"
    assert found.startswith(what), found


def test_a_failure_is_shortened(monkeypatch):
    monkeypatch.setattr(jc, "conv", inside(f"return {RIGHT} + (stride == 2)"))
    long = fuzz.parse_call(GOOD.replace("stride=2", "padding=0, stride=2"), jit=True, x64=False)
    call, outcome = fuzz.shortened(long, fuzz.check(long))
    assert call.command == f'python experiments/fuzz.py --call "{GOOD}"'
    assert outcome.kind == "failure"


def test_sums_of_integers_are_compared_exactly():
    want = np.array([2**53 + 1, 5])
    assert fuzz.difference(jnp.asarray(want), want) is None
    assert fuzz.difference(jnp.asarray(want - 1), want).startswith("wrong value: 2 of 2")


def test_what_is_not_finite_is_compared_too():
    def unlike(*got, tolerance=0.0):
        return fuzz.unlike(np.array(got), want, tolerance, single=False).tolist()

    nan, inf = np.nan, np.inf
    want = np.array([1.0, nan, inf, -inf])
    assert unlike(1.0, nan, inf, -inf) == [False] * 4
    assert unlike(1.0, 0.0, nan, inf, tolerance=1.0) == [False, True, True, True]
    assert unlike(nan, nan, inf, -inf, tolerance=1.0) == [True, False, False, False]


def test_half_precision_is_rounded_once():
    """A sum of 256 and 1, 1, 1 is 259: kept in bfloat16 it would stay 256, and 260 is nearest."""
    want = np.array([259.0, 1.0]).astype(jnp.bfloat16)
    assert want.tolist() == [260.0, 1.0]
    assert fuzz.difference(jnp.asarray(want), want) is None
    assert fuzz.difference(jnp.array([256.0, 1.0], jnp.bfloat16), want).startswith("wrong value: 1")
    off = jnp.array([260.0, 1.1], jnp.bfloat16)
    assert fuzz.difference(off, want).startswith("wrong value: 1 of 2 entries, at (1,)")
    assert fuzz.difference(off, want, rounding=1) is None


def test_only_python_ints_are_ints():
    assert fuzz.difference((4, 3), (4, 3)) is None
    for other in ((4, np.int64(3)), (4, 3.0), (4, True), [4, 3], (4,), (4, 2)):
        assert fuzz.difference(other, (4, 3)).startswith("wrong value")


# Processes that end.


def abort_at_the_second(connection, seed, numbers, only):
    for number in numbers:
        if number == 1:
            os.abort()
        connection.send((fuzz.draw_call(seed, number, 0, only), fuzz.Outcome("equal")))


def stand_still(connection, seed, numbers, only):
    time.sleep(600)


def test_the_end_of_the_process_is_a_failure_and_the_next_call_follows():
    found = list(fuzz.judged(0, 3, "filters.sobel", run=abort_at_the_second))
    assert [outcome.kind for _, outcome in found] == ["equal", "failure", "equal"]
    assert found[1][1].what.startswith("the process ended, exit code -")
    assert found[1][0] == fuzz.drawn(0, 1, "filters.sobel")


def test_a_call_without_end_is_a_failure(monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    ((_, outcome),) = fuzz.judged(0, 1, "filters.sobel", run=stand_still)
    assert outcome == ("failure", "no end after 1 seconds")


# The command.


@pytest.fixture
def kept_settings(monkeypatch):
    """Without the platform and the way of compiling that the command chooses for its process."""
    monkeypatch.setattr(fuzz, "prepare", lambda: None)


def in_this_process(monkeypatch):
    def judged(seed, n, only):
        for number in range(n):
            call = fuzz.drawn(seed, number, only)
            yield call, fuzz.check(call)

    monkeypatch.setattr(fuzz, "judged", judged)


def test_the_table_counts_every_call(monkeypatch, capsys):
    in_this_process(monkeypatch)
    assert fuzz.main(["--n", "9", "--only", "geometry.conv_output_shape"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "python experiments/fuzz.py --n 9 --seed 0 --only geometry.conv_output_shape"
    (row,) = (line for line in lines if line.startswith("geometry.conv_output_shape"))
    calls, *kinds = map(int, row.split()[1:])
    assert (calls, sum(kinds), kinds[-1]) == (9, 9, 0)
    assert any(line.split()[:2] == ["total", "9"] for line in lines)


def test_a_failure_is_told_with_the_call_that_makes_it(monkeypatch, capsys):
    in_this_process(monkeypatch)
    monkeypatch.setattr(jc.geometry, "conv_output_shape", lambda *args, **options: ())
    assert fuzz.main(["--n", "5", "--only", "geometry.conv_output_shape"]) == 1
    out = capsys.readouterr().out
    assert out.count('python experiments/fuzz.py --call "geometry.conv_output_shape(') == 5


@pytest.mark.usefixtures("kept_settings")
def test_one_call_is_judged_alone(monkeypatch, capsys):
    assert fuzz.main(["--call", GOOD]) == 0
    assert capsys.readouterr().out.endswith("came: equal\n")
    assert fuzz.main(["--call", BAD, "--jit", "--x32"]) == 0
    assert capsys.readouterr().out == "due: ValueError about stride\ncame: ValueError\n"
    monkeypatch.setattr(jc, "conv", inside(FAULTS["wrong value"]))
    assert fuzz.main(["--call", GOOD]) == 1
    assert "failure: wrong value: 1 of 9 entries, at (0, 0)" in capsys.readouterr().out


@pytest.mark.usefixtures("kept_settings")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--only", "convolution"], "there is no convolution"),
        (["--call", "reshape(2)"], "there is no reshape"),
        (["--call", "conv(**{})"], "no call"),
        (["--call", "conv("], "never closed"),
    ],
)
def test_bad_input_is_told_in_one_line(args, said, capsys):
    assert fuzz.main(args) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("n", ["0", "-3", "many"])
def test_the_number_of_calls_is_positive(n):
    with pytest.raises(SystemExit) as caught:
        fuzz.main(["--n", n])
    assert caught.value.code == 2


def test_what_is_not_finite_may_spread_within_its_image():
    want = np.array([[[[1.0, np.inf]]], [[[3.0, 4.0]]]])
    got = np.array([[[[np.nan, np.inf]]], [[[3.0, 4.0]]]])
    assert fuzz.difference(jnp.asarray(got), want)
    assert fuzz.difference(jnp.asarray(got), fuzz.spread(got, want, 3)) is None
    for wrong in (want[::-1], np.where(want == 3, np.nan, want), np.where(want == 1, 2.0, want)):
        assert fuzz.difference(jnp.asarray(wrong), fuzz.spread(wrong, want, 3))
    vanished = np.where(np.isinf(want), 7.0, want)
    assert fuzz.difference(jnp.asarray(vanished), fuzz.spread(vanished, want, 3))
