"""The script of deliberate slips: its table is kept up to date, and it tells slips from none."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def mutations():
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        spec = importlib.util.spec_from_file_location("mutations", EXPERIMENTS / "mutations.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(EXPERIMENTS))


def test_every_slip_can_still_be_made(mutations):
    """Its old text is there once, its test is in the file that it says."""
    assert mutations.stale(mutations.SLIPS) == []
    assert len(mutations.SLIPS) >= 50
    for slip in mutations.SLIPS:
        file, _, test = slip.test.partition("::")
        source = (EXPERIMENTS.parent / file).read_text()
        assert f"def {test.partition('[')[0]}(" in source, slip.test
    assert len({slip.what for slip in mutations.SLIPS}) == len(mutations.SLIPS)


def test_a_slip_is_told_from_a_change_that_breaks_nothing(mutations, capsys, monkeypatch):
    test = "tests/test_package.py::test_typing_marker_is_there"
    source = "tests/test_package.py"
    old = '(ROOT / "py.typed").is_file()'
    slips = [
        mutations.Slip("a slip", source, old, '(ROOT / "py.typo").is_file()', test),
        mutations.Slip("none", source, old, f"{old} is True", test),
    ]
    monkeypatch.setattr(mutations, "SLIPS", slips)
    assert mutations.main([]) == 1
    said = capsys.readouterr().out
    assert "2 slips, 1 caught, 1 not" in said
    assert "NOT by" in said
    assert mutations.main(["--only", "no such word"]) == 2
    monkeypatch.setattr(mutations, "SLIPS", [slips[0]._replace(old="not there")])
    assert mutations.main([]) == 1
