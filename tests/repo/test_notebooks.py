"""Notebooks are thin and alike: the same headings everywhere, no logic, no outputs, no metadata of an editor."""

import ast
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook_lib.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
OVERVIEW = "00_overview"
STAGE_HEADINGS = ["Purpose", "Parameters", "Context", "Facts", "Plan", "Approve", "Apply", "Verify", "Record", "Next"]
OVERVIEW_HEADINGS = ["Purpose", "Parameters", "Context", "Facts", "Next"]
CAPACITY = "05_capacity"  # plans from params alone: no stage, nothing to approve
CAPACITY_HEADINGS = ["Purpose", "Parameters", "Context", "Facts", "Plan", "Next"]
PARAMETERS = ["params", "overrides", "run_dir", "mode"]
MAX_LINES = 10
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LOGIC = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.Try,
    ast.TryStar,
    ast.For,
    ast.AsyncFor,
    ast.While,
)
SHELL = re.compile(r"^\s*[!%]|\bsubprocess\b|\bos\.system\b|\bget_ipython\b", re.MULTILINE)

Notebook = dict[str, Any]


def read(name: str) -> Notebook:
    """Return a notebook as JSON."""
    notebook: Notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def text_of(cell: dict[str, Any]) -> str:
    """Return a cell's source, however it is stored."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def problems(name: str, notebook: Notebook) -> list[str]:
    """Return everything that is wrong with a notebook."""
    cells = notebook["cells"]
    found = [*_anatomy(name, cells), *_parameters(cells)]
    if notebook["metadata"] != METADATA:
        found.append(f"metadata is {notebook['metadata']}")
    if len({cell["id"] for cell in cells}) != len(cells):
        found.append("two cells share an id")
    for cell in cells:
        if cell["cell_type"] == "code":
            found += [f"cell {cell['id']}: {what}" for what in _code(cell)]
        elif cell["metadata"] or cell.get("attachments"):
            found.append(f"cell {cell['id']}: metadata or attachments in a text cell")
    return found


def _anatomy(name: str, cells: list[dict[str, Any]]) -> list[str]:
    text = "\n".join(text_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    wanted = {OVERVIEW: OVERVIEW_HEADINGS, CAPACITY: CAPACITY_HEADINGS}.get(name, STAGE_HEADINGS)
    found = [] if headings == wanted else [f"headings are {headings}"]
    if not re.match(r"# \S", text_of(cells[0])):
        found.append("it does not begin with a title")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    return found + [f"the link {link} leads nowhere" for link in links if not (FOLDER / link).is_file()]


def _parameters(cells: list[dict[str, Any]]) -> list[str]:
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
        return [f"{len(tagged)} cells are tagged as parameters"]
    try:
        body = ast.parse(text_of(tagged[0])).body
    except SyntaxError:
        return []  # said of the cell itself
    values = {
        target.id: statement.value.value
        for statement in body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    if list(values) != PARAMETERS or len(body) != len(PARAMETERS):
        return [f"parameters are {list(values)}"]
    found = [] if values["mode"] == "plan" else [f"the mode begins as {values['mode']}"]
    if not (ROOT / values["params"]).is_file():
        found.append(f"{values['params']} is not there")
    return found


def _code(cell: dict[str, Any]) -> list[str]:
    source = text_of(cell)
    found = []
    if cell["outputs"] or cell["execution_count"] is not None:
        found.append("it holds outputs")
    if set(cell["metadata"]) - {"tags"} or set(cell["metadata"].get("tags", [])) - {"parameters"}:
        found.append(f"metadata is {cell['metadata']}")
    if len(source.splitlines()) > MAX_LINES:
        found.append(f"it has more than {MAX_LINES} lines")
    if SHELL.search(source):
        found.append("it starts a shell or a process")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [*found, f"it is not plain Python: {error.msg}"]
    found += [f"it holds a {type(node).__name__}" for node in ast.walk(tree) if isinstance(node, LOGIC)]
    found += [
        f"it imports {module}"
        for module in _imported(tree)
        if not module.startswith(("runbook_lib.runs", "runbook_lib.ui"))
    ]
    if not cell["metadata"].get("tags") and not (tree.body and isinstance(tree.body[-1], ast.Expr)):
        found.append("it does not end in an object that displays itself")
    return found


def _imported(tree: ast.Module) -> list[str]:
    """Return the modules that are imported, each as its full name."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_notebook(name: str) -> None:
    """Every notebook has the anatomy of design section 5."""
    assert problems(name, read(name)) == []


def test_one_for_each_stage() -> None:
    """There is one notebook for each stage, the overview, and the capacity plan."""
    names = {path.stem for path in FOLDER.glob("*.ipynb")}

    assert names == {OVERVIEW, CAPACITY, *(stage.notebook for stage in STAGES)}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_opens_its_own_stage(stage: Any) -> None:
    """A stage's notebook opens that stage, with the parameters that it was given."""
    code = "\n".join(text_of(cell) for cell in read(stage.notebook)["cells"] if cell["cell_type"] == "code")

    assert f'session.open_stage("{stage.name}", params, overrides, run_dir, mode)' in code


def _set(kind: str, key: str, value: object) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == kind and not cell["metadata"]]
        cells[-1][key] = value

    return change


def _drop_cell(text: str) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        notebook["cells"] = [cell for cell in notebook["cells"] if text not in text_of(cell)]

    return change


def _set_metadata(notebook: Notebook) -> None:
    notebook["metadata"]["widgets"] = {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("code", "outputs", [{"output_type": "stream", "name": "stdout", "text": "x"}]), "it holds outputs"),
        (_set("code", "execution_count", 3), "it holds outputs"),
        (_set("code", "source", "x = 1\n" * 10 + "x"), "it has more than 10 lines"),
        (_set("code", "source", "for x in y:\n    x\nx"), "it holds a For"),
        (_set("code", "source", "try:\n    x\nfinally:\n    x\nx"), "it holds a Try"),
        (_set("code", "source", "f = lambda: 1\nf"), "it holds a Lambda"),
        (_set("code", "source", "def f(): ...\nf"), "it holds a FunctionDef"),
        (_set("code", "source", "!ls"), "it starts a shell or a process"),
        (_set("code", "source", "%%bash\nls"), "it starts a shell or a process"),
        (_set("code", "source", "import subprocess\nsubprocess"), "it imports subprocess"),
        (_set("code", "source", "from runbook_lib.remote import run\nrun"), "it imports runbook_lib.remote.run"),
        (_set("code", "source", "x = 1"), "it does not end in an object that displays itself"),
        (_set("code", "metadata", {"scrolled": True}), "metadata is {'scrolled': True}"),
        (_set("markdown", "attachments", {"a.png": {}}), "metadata or attachments in a text cell"),
        (_set("markdown", "source", "## Next\n\n[gone](gone.ipynb)"), "the link gone.ipynb leads nowhere"),
        (_drop_cell("## Verify"), "headings are"),
        (_drop_cell("overrides = "), "0 cells are tagged as parameters"),
        (_set_metadata, "metadata is"),
    ],
)
def test_problem_is_noticed(change: Callable[[Notebook], None], said: str) -> None:
    """Each of these faults, put into a good notebook, would be noticed."""
    notebook = copy.deepcopy(read("20_network_setup"))
    change(notebook)

    assert any(said in problem for problem in problems("20_network_setup", notebook))
