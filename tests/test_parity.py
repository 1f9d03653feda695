"""`experiments/parity.py`: a slice of its comparison with torch and scipy, and that it can fail."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "parity.py"
SEED = 2024
SLICE = 10


def load() -> ModuleType:
    """The script, with the modules beside it, as if it were run."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = load()
TORCHS = [name for name in parity.FUNCTIONS if name not in parity.SCIPYS]


@pytest.fixture
def settings():
    with parity.settings(optimise=False):
        yield


@pytest.fixture
def torch(settings):
    return pytest.importorskip("torch")


def ordinary(count):
    """Numbers of configurations that are no unusual calls."""
    return [index for index in range(2 * count) if parity.case_of("conv", index) is None][:count]


def assert_agree(name):
    """A slice of a function's configurations, each compared in all three stages."""
    outcomes = [parity.examine(name, index, SEED) for index in ordinary(SLICE)]
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert all(len(outcome.differences) == 3 for outcome in outcomes)
    assert sum(outcome.values for outcome in outcomes) > 30 * SLICE


def assert_decided(name):
    """Every unusual call: computed alike, refused by both, or the docstring says otherwise."""
    every = parity.CASE_EVERY
    indices = [every * position for position in range(len(parity.CASES[name]))]
    tally = parity.Tally(name, [parity.examine(name, index, SEED) for index in indices])
    assert [outcome.case for outcome in tally.outcomes] == [*parity.CASES[name]]
    assert [outcome for outcome in tally.outcomes if outcome.fault] == []
    assert [row for row in parity.unusual(tally) if row.fault] == []


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", TORCHS)
def test_agrees_with_torch(name, torch):
    assert_agree(name)


@pytest.mark.parametrize("name", parity.SCIPYS)
def test_agrees_with_scipy(name, settings):
    assert_agree(name)


@pytest.mark.parametrize("name", TORCHS)
def test_where_one_refuses_the_docstring_says_so(name, torch):
    assert_decided(name)


@pytest.mark.parametrize("name", parity.SCIPYS)
def test_where_scipy_or_ours_refuses_the_docstring_says_so(name, settings):
    assert_decided(name)


# What is drawn.

SEEN = {
    "conv": (
        r"layout='NWC'", r"layout='NHWC'", r"layout='NDHWC'", r"layout='NCHW'", r"groups=3",
        r"padding='same'", r"padding='same_lower'", r"padding='full'", r"padding='causal'",
        r"padding=\(\(", r"padding=\(\d", r"padding=\d", r"-1", r"'reflect'", r"'replicate'",
        r"'circular'", r"dilation=\(3", r"stride=\(\d", r"stride=3", r"bias float64 \(\d,\)",
        r"bias float64 \(\d, \d\)", r"complex128", r"x float64 \(\d, \d\), kernel",
        r"x float64 \(\d, \d, \d, \d, \d, \d\)",
    ),
    "conv_transpose": (r"output_padding=\(\d", r"padding='same'", r"groups=2", r"padding=\(\("),
    "max_pool": (r"ceil_mode=True", r"return_indices=True", r"dilation=\(", r"padding=\(\("),
    "min_pool": (r"ceil_mode=True", r"dilation=\("),
    "avg_pool": (r"count_include_pad=False", r"divisor_override=-2", r"ceil_mode=True"),
    "lp_pool": (r"p=1,", r"p=1.5", r"p=2,", r"p=2.0", r"p=3", r"ceil_mode=True", r"dilation=\("),
    "adaptive_avg_pool": (r"None", r"output_shape=\(\d,\)", r"output_shape=\(\d, \d, \d\)"),
    "adaptive_max_pool": (r"None", r"return_indices=True"),
    "max_unpool": (r"output_shape=\(\d,\)", r"output_shape=\(\d, \d, \d\)", r"layout='NHWC'"),
    "unfold": (r"window=\(\d,\)", r"window=\(\d, \d, \d\)", r"layout='NHWC'", r"complex128"),
    "fold": (r"window=\(\d,\)", r"window=\(\d, \d, \d\)", r"layout='NHWC'", r"padding=\(\("),
    "correlate": (r"'full'", r"'same'", r"'valid'", r"int8", r"int64", r"complex128", r"float64"),
    "convolve": (r"'full'", r"'same'", r"'valid'", r"int8", r"int64", r"complex128", r"float64"),
}  # fmt: skip


@pytest.mark.parametrize("name", parity.FUNCTIONS)
def test_every_option_is_drawn(name):
    texts = [parity.configuration(name, index, 0)[0].text for index in range(250)]
    missing = [pattern for pattern in SEEN[name] if not any(re.search(pattern, t) for t in texts)]
    assert missing == []


def test_second_argument_is_larger_at_times():
    calls = [parity.configuration("correlate", index, 0)[0] for index in range(50)]
    larger = [k.size > x.size for x, k in (call.arrays for call in calls)]
    assert 10 < sum(larger) < 40


def test_whole_numbers_overflow_at_times():
    calls = [parity.configuration("convolve", index, 0)[0] for index in range(100)]
    whole = [call.arrays[0] for call in calls if call.arrays[0].dtype == np.int64]
    assert max(np.abs(x).max() for x in whole) > 2**32
    assert min(np.abs(x).max() for x in whole) < 10


def test_a_configuration_is_its_seed_name_and_number():
    def text(*args):
        return parity.configuration(*args)[0].text

    assert text("conv", 3, 0) == text("conv", 3, 0)
    assert len({text("conv", 3, 0), text("conv", 4, 0), text("conv", 3, 1)}) == 3
    first, again = (parity.configuration("conv", 3, 0)[0].arrays for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])


# What is compared.


def test_relative():
    one = np.array([1.0, -4.0])
    assert parity.relative(one, one) == 0
    assert parity.relative(np.array([1.0, -4.0 + 1e-8]), one) == pytest.approx(2.5e-9)
    assert parity.relative(one, np.array([1.0, np.nan])) == np.inf
    assert parity.relative(np.array([1.0, np.nan]), one) == np.inf
    assert parity.relative(np.array([np.inf, 1]), np.array([-np.inf, 1])) == np.inf
    assert parity.relative(np.array([np.nan, 2.0]), np.array([np.nan, 2.0])) == 0
    assert parity.relative(np.array([-np.inf, 2.0]), np.array([-np.inf, 1.0])) == 1
    assert parity.relative(one, one[:1]) == np.inf
    assert parity.relative(np.array([3, 4]), np.array([3, 4])) == 0
    assert parity.relative(np.array([3, 4]), np.array([3, 5])) == np.inf
    assert parity.relative(np.array([3, 4]), np.array([3.0, 4.0])) == np.inf
    assert parity.relative(np.array([1e-18]), np.array([0.0])) == pytest.approx(1e-15)
    assert parity.relative(np.zeros((2, 0)), np.zeros((2, 0))) == 0


def test_docstrings_are_read_across_lines(monkeypatch):
    monkeypatch.setattr(parity.jc.conv, "__doc__", "One\n    decision, made:\n\n    here.")
    assert parity.is_stated("conv", "decision, made: here")
    assert parity.is_stated("max_pool", "conv: One decision")
    assert not parity.is_stated("conv", "another decision")
    assert not parity.is_stated("max_pool", "decision, made: here")
    assert not parity.is_stated("conv", "")


def run(capsys, *args):
    code = parity.main([str(arg) for arg in args])
    return code, capsys.readouterr().out


def test_wrong_values_are_reported_with_a_way_back(monkeypatch, capsys, settings):
    right = parity.jc.correlate
    monkeypatch.setattr(parity.jc, "correlate", lambda x, k, mode: right(x, k.conj(), mode))
    code, out = run(capsys, "--only", "correlate", "--n", 12, "--seed", 3)
    assert code == 1
    line, call, command = out[out.index("DIFFERENCE") :].splitlines()[:3]
    assert re.search(r"forward \d\.\de[+-]\d\d, gradients .*, second order ", line)
    assert re.match(r"  correlate\(x \w+ \(.*\), k complex128 \(.*\), mode='\w+'\)", call)
    assert command.startswith("  python experiments/parity.py --seed 3 --only correlate --index ")
    assert not out.endswith("Differences beyond 1e-10: 0.")
    code, again = run(capsys, *command.split()[2:])
    assert code == 1
    assert line in again
    monkeypatch.setattr(parity.jc, "correlate", right)
    code, again = run(capsys, *command.split()[2:])
    assert code == 0
    assert "no fault" in again


def faults(name, monkeypatch, wrong, count=6, having=""):
    """Faults of a function that `wrong` makes of the right one, in calls that have these words."""
    right = getattr(parity.jc, name)
    monkeypatch.setattr(parity.jc, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    texts = {index: parity.configuration(name, index, SEED)[0].text for index in ordinary(80)}
    chosen = [index for index, text in texts.items() if having in text][:count]
    outcomes = [parity.examine(name, index, SEED) for index in chosen]
    return [outcome for outcome in outcomes if outcome.fault]


def test_padding_on_the_wrong_side_is_found(monkeypatch, torch):
    def wrong(conv, x, kernel, *bias, padding, **options):
        mirrored = tuple((high, low) for low, high in padding)
        return conv(x, kernel, *bias, padding=mirrored, **options)

    found = faults("conv", monkeypatch, wrong, 5, having="padding=((")
    assert len(found) >= 4  # some are the same on both sides
    assert all(outcome.differences[0] > 1e-3 for outcome in found)


def test_a_wrong_gradient_alone_is_found(monkeypatch, torch):
    def wrong(pool, x, *args, **options):
        return pool(x, *args, **options) + 0.01 * (x - jax.lax.stop_gradient(x)).sum()

    found = faults("adaptive_avg_pool", monkeypatch, wrong)
    assert len(found) == 6
    assert all(outcome.differences[0] < 1e-14 < 1e-3 < outcome.differences[1] for outcome in found)


def test_a_wrong_second_order_alone_is_found(monkeypatch, torch):
    def wrong(pool, x, *args, **options):
        return pool(x, *args, **options) + 0.01 * (x - jax.lax.stop_gradient(x)).sum() ** 2

    found = faults("unfold", monkeypatch, wrong)
    real = [outcome for outcome in found if "complex" not in outcome.text]
    assert len(real) >= 4
    assert all(
        max(outcome.differences[:2]) < 1e-14 < 1e-3 < outcome.differences[2] for outcome in real
    )


def test_a_wrong_index_is_found(monkeypatch, torch):
    def wrong(pool, *args, **options):
        result = pool(*args, **options)
        return (result[0], result[1] + 1) if isinstance(result, tuple) else result

    found = faults("max_pool", monkeypatch, wrong, 2, having="return_indices")
    assert [outcome.differences for outcome in found] == [(np.inf, 0, 0)] * 2


def test_other_shapes_dtypes_and_errors_are_found(monkeypatch, torch):
    found = faults("min_pool", monkeypatch, lambda pool, *a, **o: pool(*a, **o)[..., :0], 2)
    assert [bool(re.search(r"float64 \(.*0.*\), not float64", o.fault)) for o in found] == [
        True
    ] * 2

    def single(pool, *args, **options):
        return pool(*args, **options).astype(jnp.float32)

    assert "float32" in faults("avg_pool", monkeypatch, single, 1)[0].fault

    def crash(*args, **options):
        raise RuntimeError("from within")

    assert faults("fold", monkeypatch, crash, 1)[0].fault == "RuntimeError: from within"

    def refuse(*args, **options):
        raise ValueError("x must be something else")

    assert "x must be something else" in faults("max_unpool", monkeypatch, refuse, 1)[0].fault


def test_a_refusal_that_no_docstring_states_fails(monkeypatch, capsys, settings):
    monkeypatch.setattr(parity.jc.convolve, "__doc__", "Convolution.")
    code, out = run(capsys, "--only", "convolve", "--n", 17)
    assert code == 1
    assert "NOT STATED: convolve, four axes: jaxconv; needed: 'an array of 1 to 3 axes'" in out
    assert "Differences beyond 1e-10: 0." in out
    assert re.search(r"convolve +four axes +jaxconv +1 +NOT STATED", out)


def test_a_crash_is_no_decision(monkeypatch, torch):
    def crash(*args, **options):
        raise RuntimeError("from within")

    monkeypatch.setattr(parity.jc, "lp_pool", crash)
    (position,) = (
        position
        for position, case in enumerate(parity.CASES["lp_pool"])
        if case == "negative numbers, odd p"
    )
    outcome = parity.examine("lp_pool", parity.CASE_EVERY * position, SEED)
    assert outcome.decided
    assert outcome.fault == "RuntimeError: from within"


def test_refusing_everything_comes_to_an_end_and_fails(monkeypatch, capsys):
    def refuse(*args, **options):
        raise ValueError("no")

    monkeypatch.setattr(parity.jc, "convolve", refuse)
    code, out = run(capsys, "--only", "convolve", "--n", 2)
    assert code == 1
    assert "Configurations computed: 0." in out
    assert "DIFFERENCE: refused by peer None, jaxconv 'no'" in out


def test_whole_numbers_of_another_dtype_are_found(monkeypatch, settings):
    def wide(correlate, x, k, mode):
        z = correlate(x, k, mode)
        return z.astype(np.int64) if z.dtype.kind == "i" else z

    found = faults("correlate", monkeypatch, wide, 3, having="int16")
    assert len(found) == 3
    assert all(re.match(r"int64 \(.*\), not int16 \(", outcome.fault) for outcome in found)


# The program.


def test_report(capsys):
    code, out = run(capsys, "--only", "convolve", "--n", 9, "--seed", 5)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "$ python experiments/parity.py --n 9 --seed 5 --only convolve"
    assert lines[1].startswith(f"jax {jax.__version__}, ")
    assert all(name in lines[1] for name in ("scipy ", "NumPy ", "Python "))
    assert re.search(r"\n  convolve +9 +\d+ +\d\.\de-1\d +\d\.\de-1\d ", out)
    assert re.search(r"\n  all +9 ", out)
    assert "Refused by both:\n  convolve: mixed sizes, 'valid' (1)" in out
    assert out.endswith(
        "Configurations computed: 9. Differences beyond 1e-10: 0.\n"
        "Cases in which the sides part and the docstring does not say so: 0.\n"
    )
    assert "\x1b" not in out
    assert [line for line in lines if line != line.rstrip()] == []


def test_configurations_are_shared_out():
    ticks = []
    tallies = parity.run(parity.SCIPYS, 7, 0, lambda: ticks.append(1))
    assert [tally.function for tally in tallies] == [*parity.SCIPYS]
    assert [len(tally.computed) for tally in tallies] == [3, 4]
    assert len(ticks) == 7


def test_settings_are_put_back():
    name = "jax_disable_most_optimizations"
    with jax.enable_x64(False):
        with parity.settings(optimise=False):
            assert jax.config.read(name)
            assert jnp.zeros(()).dtype == np.float64
        assert not jax.config.read(name)
        assert jnp.zeros(()).dtype == np.float32
        with parity.settings(optimise=True):
            assert not jax.config.read(name)


@pytest.mark.parametrize(
    "args",
    [
        ["--n", "0"],
        ["--n", "many"],
        ["--only", "softmax"],
        ["--index", "3"],
        ["--index", "-1", "--only", "correlate"],
    ],
)
def test_bad_arguments(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        parity.main(args)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


BLOCKED = """
import importlib.abc, runpy, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Blocked())
sys.argv = ["parity.py", *sys.argv[1:]]
sys.path.insert(0, {folder!r})
runpy.run_path({script!r}, run_name="__main__")
"""


def without_torch(*args):
    code = BLOCKED.format(folder=str(SCRIPT.parent), script=str(SCRIPT))
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=SCRIPT.parents[1]
    )


def test_runs_without_torch():
    done = without_torch("--n", "6")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("torch") == 1
    assert "\ntorch is not installed: scipy's part only.\n" in done.stdout
    rows = re.findall(r"^  (\w+) +\d", done.stdout, re.MULTILINE)
    assert rows == ["correlate", "convolve", "all"]
    assert "Configurations computed: 6." in done.stdout


def test_asking_for_torch_without_torch():
    done = without_torch("--only", "conv")
    assert done.returncode == 2
    assert "--only conv needs torch, which is not installed" in done.stderr
