"""`experiments/tour.ipynb`: every cell runs, and git has it without outputs.

The numbers are asserted in the cells, so running them is the test. They run in a kernel of their
own, as a reader's notebook does, but with warnings as errors and without the user's settings.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401  its first import ever talks on stderr: not in the kernel
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import jaxconv as jc

ROOT = Path(jc.__file__).parents[1]
TOUR = ROOT / "experiments" / "tour.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
STRICT = "import warnings\n\nwarnings.simplefilter('error')"
NOTES = ("corr2d", "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1", "pool2d")


def read() -> Any:
    return nbformat.read(TOUR, as_version=nbformat.NO_CONVERT)


def sources(kind: str) -> list[str]:
    return [cell.source for cell in read().cells if cell.cell_type == kind]


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout's jaxconv on a CPU, this interpreter's kernel, nobody's startup files."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own: pictures in the notebook


def run(notebook: Any, directory: Path) -> list[Any]:
    """The executed cells; a cell that raises fails the test with its traceback."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    resources = {"metadata": {"path": str(directory)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(re.sub(r"\x1b\[[0-9;]*m", "", str(error)), pytrace=False)
    return notebook.cells[1:]


@pytest.mark.usefixtures("own_settings")
def test_every_cell_runs(tmp_path: Path):
    """Nothing fails, nothing warns, all is run once and in order, and the pictures are drawn."""
    cells = [cell for cell in run(read(), tmp_path) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(2, len(cells) + 2))
    outputs = [(cell.id, output) for cell in cells for output in cell.outputs]
    assert [(name, out.text) for name, out in outputs if out.get("name") == "stderr"] == []
    drawn = {name for name, output in outputs if "image/png" in output.get("data", {})}
    assert drawn == {cell.id for cell in cells if "plt.show()" in cell.source} != set()
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.usefixtures("own_settings")
def test_a_cell_that_warns_fails(tmp_path: Path):
    wrong = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("warnings.warn('old')")])
    with pytest.raises(pytest.fail.Exception, match="UserWarning: old"):
        run(wrong, tmp_path)


def test_git_has_it_stripped():
    """No outputs, no counts, and nothing of the machine that wrote it."""
    notebook = read()
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id)  # stable: named by hand
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_it_is_a_story():
    """Numbered sections in order, short cells, and asserts in most of those with code."""
    notebook = read()
    heads = [line for text in sources("markdown") for line in re.findall(r"^## .*", text, re.M)]
    assert [head.split()[1] for head in heads] == [f"{n}." for n in range(1, len(heads) + 1)]
    assert len(heads) == 13
    assert notebook.cells[0].source.startswith("# ")
    assert all(text.count("\n") < 45 for text in sources("code"))
    assert sum("assert " in text for text in sources("code")) > 40


@pytest.mark.parametrize("name", NOTES)
def test_each_function_of_the_notes_is_there_under_its_old_name(name: str):
    """Called in the code, and in the last table."""
    assert hasattr(jc, name)
    assert any(re.search(rf"\bjc\.{name}\(", text) for text in sources("code"))
    assert re.search(rf"^\| `{name}\(.*\| `jc\.{name}` \|", sources("markdown")[-1], re.M)


def test_every_name_of_jaxconv_in_the_words_exists():
    """Tables and sentences are not run; what they call `jc.` something is looked up here."""
    names = set(re.findall(r"`jc\.([a-z0-9_.]+)", "\n".join(sources("markdown"))))
    assert set(NOTES) < names
    for name in names:
        found: Any = jc
        for part in name.split("."):
            found = getattr(found, part)


def test_what_it_links_to_is_there():
    text = "\n".join(sources("markdown"))
    heads = {head.replace(" ", "-") for head in re.findall(r"^## (.*)", text, re.M)}
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 3
    for link in links:
        assert link[1:] in heads if link.startswith("#") else (TOUR.parent / link).is_file()
