"""Settings for all tests: double precision at hand, and no promotion that nobody asked for."""

import collections
import mmap
import os
import pathlib

import cases
import jax
import jaxlib
import pytest

from jaxconv import _choice


def is_flag_of_xla(flag: str) -> bool:
    """Whether jax's library holds the name of this flag: XLA ends the process at one it lacks."""
    for library in pathlib.Path(jaxlib.__file__).parent.glob("libjax_common.*"):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            if text.find(flag.encode()) >= 0:
                return True
    return False


#: Programs are small and workers as many as cores: to compile each in parts takes longer.
if is_flag_of_xla("xla_cpu_parallel_codegen_split_count"):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1".strip()
    )
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
    parser.addoption("--algorithm", default="", help="compute by this one all that it can compute")
    parser.addoption("--full", action="store_true", help="every case of the thinned tables")


class Documentation:
    """Examples run as a user's session has it, with jax's own settings."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            return (yield)


def pytest_configure(config):
    """With `--algorithm NAME`, put it first in the table: the tests then run once more by it."""
    config.addinivalue_line("markers", "thinned(n): every n-th case, all of them with --full")
    config.addinivalue_line("markers", "full: with --full only, as shorter tests cover it")
    cases.FULL = config.getoption("--full")
    config.pluginmanager.register(Documentation())
    if name := config.getoption("--algorithm"):
        _choice.TABLE = (_choice.Row(name, lambda problem: True, "under test"), *_choice.TABLE)


def pytest_collection_modifyitems(config, items):
    """Keep every n-th case of a test marked `thinned(n)`, and none of one marked `full`: all of
    them take more than an hour on two cores."""
    if cases.FULL:
        return
    seen: collections.Counter[str] = collections.Counter()
    kept, left = [], []
    for item in items:
        mark = item.get_closest_marker("thinned")
        test = item.nodeid.partition("[")[0]
        out = item.get_closest_marker("full") or (mark and seen[test] % mark.args[0])
        (left if out else kept).append(item)
        seen[test] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Thousands of compiled programs would otherwise pile up in each worker, gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture
def quick_compile():
    """Compile without XLA's costly passes: for tests whose time is the compiling of small programs.

    Values, dtypes and lowerings are tested with full optimisation.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
