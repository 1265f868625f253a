"""The notebooks run as they stand, state what they stated when they were committed, and look right in a browser."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What a browser has made of an image shows in its natural width, which is 0 where it could not be decoded.
MEASURE = """<script>addEventListener("load", () => {
  for (const image of document.images) image.dataset.width = image.naturalWidth;
  document.body.dataset.scripted = "yes";
});</script>"""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def execute() -> Callable[[NotebookNode], NotebookNode]:
    """`notebooks/execute.py`, by which the committed outputs were made."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def facts(notebook: NotebookNode) -> dict[str, str]:
    """What the cells with the tag `facts` print, by the id of the cell."""
    return {
        cell.id: "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in code_cells(notebook)
        if "facts" in cell.metadata.get("tags", ())
    }


def images(notebook: NotebookNode) -> int:
    return sum("image/png" in output.get("data", ()) for cell in code_cells(notebook) for output in cell.outputs)


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@every_notebook
def test_the_committed_outputs_are_those_of_one_clean_run(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/[^\s\"']*", str(outputs))
    assert all(facts(notebook).values())


@pytest.mark.slow
@every_notebook
def test_a_clean_run_states_the_same_facts(path: Path, execute: Callable[[NotebookNode], NotebookNode]) -> None:
    committed = read(path)
    fresh = execute(copy.deepcopy(committed))
    assert facts(committed)
    assert facts(fresh) == facts(committed)
    assert images(fresh) == images(committed)
    assert not [output for cell in code_cells(fresh) for output in cell.outputs if output.output_type == "error"]


@pytest.mark.skipif(
    BROWSER is None, reason="No Chromium here, so no browser has shown the notebooks: apt-get install chromium"
)
@pytest.mark.parametrize("theme", ["light", "dark"])
@every_notebook
def test_every_figure_is_there_in_a_browser(path: Path, theme: str, tmp_path: Path) -> None:
    notebook = read(path)
    html, _ = HTMLExporter(theme=theme).from_notebook_node(notebook)
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    shown = opened_in_browser(page, tmp_path / "profile")

    assert shown.body is not None
    assert shown.body["data-scripted"] == "yes"
    figures = shown.select(".jp-OutputArea-output img")
    assert len(figures) == images(notebook)
    assert all(int(str(figure["data-width"])) > 100 for figure in figures)
    tables = sum("text/html" in output.get("data", ()) for cell in code_cells(notebook) for output in cell.outputs)
    assert len(shown.select(".jp-RenderedHTMLCommon.jp-OutputArea-output")) == tables
    assert len(shown.select(".jp-CodeCell")) == len(code_cells(notebook))
    assert not shown.select('[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type*="error"]')
    assert "Traceback (most recent call last)" not in shown.get_text()


def opened_in_browser(page: Path, profile: Path) -> BeautifulSoup:
    """The page as a browser without a network has it after its scripts have run."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",  # the page is our own
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return BeautifulSoup(done.stdout, "html.parser")
