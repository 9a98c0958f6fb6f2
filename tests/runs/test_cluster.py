"""A cluster object before it connects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import TwinDown
from runbook_lib.params import load_params, project_root
from runbook_lib.runs.cluster import Cluster, known_hosts_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("roots", [None, "", "[]", "{}", json.dumps({"node1": "/somewhere"})])
def test_a_twin_that_does_not_say_where_its_hosts_are_is_down(tmp_path: Path, roots: str | None) -> None:
    """Without a folder for every host, paths would be those of this very machine."""
    params = load_params(project_root() / "params" / "twin-2x8-direct.yaml")
    known = known_hosts_file(params, tmp_path)
    known.parent.mkdir(parents=True)
    known.touch()
    if roots is not None:
        (known.parent / "host_roots.json").write_text(roots, encoding="utf-8")
    with pytest.raises(TwinDown):
        Cluster(params, tmp_path)
