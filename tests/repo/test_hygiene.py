"""The files of the repository name no place of the machine they were written on, no registry and no CDN."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# made by tools or by runs; .gitignore names them too
NOT_OURS = {"outputs", "wheelhouse", "__pycache__"}
DOTTED_BUT_OURS = {".ci", ".gitignore"}
# written in pieces, else this file would find itself
WORKPLACE = re.compile(
    r"(?<![\w}.$/-])/(?:"
    + "|".join(["work" + "/(?:main|shared|[.]library)", "root/[.]py" + "env", "opt/py" + "pi", "tmp/bash" + "_jobs"])
    + r")|/(?:home|Users)/(?!user\b|operator\b)[a-z]\w*/"
)
REGISTRY = re.compile(
    "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.(?:org|com)", r"deb" + r"ian\.org/debian"])
)
CDN = re.compile("|".join(["js" + "delivr", "un" + r"pkg\.com", "cdn" + "js", "fonts.google" + "apis", r"//cdn\."]))


def text_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the repository's own text files, with their text."""
    for folder, folders, files in os.walk(root):
        at_top = Path(folder) == root
        folders[:] = [
            name
            for name in folders
            if name not in NOT_OURS and not name.endswith(".egg-info") and (name[0] != "." or name in DOTTED_BUT_OURS)
        ]
        for name in files:
            if name[0] == "." and not (at_top and name in DOTTED_BUT_OURS):
                continue
            path = Path(folder, name)
            try:
                yield path.relative_to(root), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def hits(pattern: re.Pattern[str], root: Path, *, without: str = "") -> list[str]:
    """Return `file:line: text` for every line in which the pattern is found."""
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in text_files(root)
        if not without or path.parts[0] != without
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_files_looked_at() -> None:
    """The files that are looked at are those of the project."""
    seen = {str(path) for path, _ in text_files(ROOT)}

    assert {".ci/run", "Makefile", "pyproject.toml", "runbook_lib/errors.py", "notebooks/00_overview.ipynb"} <= seen
    assert not [path for path in seen if path.startswith((".venv", "outputs"))]


def test_no_workplace() -> None:
    """No place of a developer's machine is named."""
    assert hits(WORKPLACE, ROOT) == []


def test_no_registry() -> None:
    """No package registry is named by its host."""
    assert hits(REGISTRY, ROOT) == []


def test_no_cdn() -> None:
    """Nothing is loaded from a CDN; tests may name one, to show that it is absent elsewhere."""
    assert hits(CDN, ROOT, without="tests") == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (WORKPLACE, 'path = "/work' + '/main/params"'),
        (WORKPLACE, "python: /root/.py" + "env/shims/python3"),
        (WORKPLACE, "/home/" + "somebody/ascend"),
        (REGISTRY, "https://py" + "pi.org/simple"),
        (CDN, '<script src="https://cdn.js' + 'delivr.net/npm/x">'),
    ],
)
def test_hit_is_noticed(pattern: re.Pattern[str], line: str, tmp_path: Path) -> None:
    """Such a line would be noticed, and a picture is passed over."""
    (tmp_path / "a.yaml").write_text(f"fine: true\n{line}\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")

    assert hits(pattern, tmp_path) == [f"a.yaml:2: {line}"]


def test_work_folder_of_hosts(tmp_path: Path) -> None:
    """The hosts' own work folder is not mistaken for one."""
    (tmp_path / "a.py").write_text('f"{root}/work/main"  # /var/lib/work/main', encoding="utf-8")

    assert hits(WORKPLACE, tmp_path) == []
