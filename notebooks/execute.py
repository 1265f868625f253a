"""Execute the notebooks in place, each from a clean kernel in an empty folder, and keep what is the same everywhere.

Usage: `python notebooks/execute.py [NOTEBOOK ...]`; without names, all of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds for one cell
# Progress bars belong to a run, not to a page, and so does tqdm's word on how it draws them; no network is needed. One
# thread: the model is so small that threads mostly wait for each other, and their number would change the rounding.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run all cells from a clean kernel in an empty working directory; outputs take the place of earlier ones.

    Raises:
        CellExecutionError: a cell failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=TIMEOUT,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
        )
        client.execute(env=os.environ | ENVIRONMENT)
    return stripped(notebook)


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from run to run: times, versions, progress, and where the kernel cuts printed text."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for key in set(cell.metadata) - {"tags"}:
            del cell.metadata[key]
        if cell.cell_type == "code":
            cell.outputs = joined([output for output in cell.outputs if not is_progress(output)])
    return notebook


def is_progress(output: NotebookNode) -> bool:
    """Whether it is the bar that a `Trainer` draws."""
    return "<progress" in output.get("data", {}).get("text/html", "")


def joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which neighbouring pieces of one stream are one."""
    whole: list[NotebookNode] = []
    for output in outputs:
        before = whole[-1] if whole else None
        if before is not None and output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="(default: all notebooks beside this script)")
    for path in parser.parse_args(arguments).paths or sorted(HERE.glob("*.ipynb")):
        started = time.perf_counter()
        notebook = execute(nbformat.read(path, as_version=4))
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
