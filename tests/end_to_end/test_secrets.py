"""Planted secrets: in the environment, in what tools print, in files, diffs, errors and tracebacks; none is recorded.

Runs stages for real, one of them failing, through our engine; and a notebook by plain papermill, where only our own
objects stand between a host and the file. Then every byte below outputs/ is looked at.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import nbformat
import pytest

from runbook_lib.params.secrets import SecretValue
from runbook_lib.runs.notebook import execute_notebook
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.signers import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the twin needs Linux")

SECRET = "hf_+x/Zq&ö'9 \"Kd$7"
MASK = "***"


def forms() -> list[bytes]:
    """Return what to look for, computed here and not by the redactor."""
    texts = {SECRET, html.escape(SECRET), shlex.quote(SECRET), repr(SECRET)[1:-1], json.dumps(json.dumps(SECRET))[3:-3]}
    texts |= {quote(SECRET), quote(SECRET, safe=""), quote_plus(SECRET)}
    texts |= {json.dumps(SECRET)[1:-1], json.dumps(SECRET, ensure_ascii=False)[1:-1]}
    encoded = [
        # without the characters that hold bits of the neighbours
        encode(b"\0" * offset + SECRET.encode())[4 if offset else 0 : -4]
        for offset in range(3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    ]
    return [text.encode() for text in texts] + encoded


def leaks(folder: Path) -> list[str]:
    """Return `file: form` for all that is found; the twin's own disks hold what was planted there."""
    wanted = forms()
    paths = [path for path in sorted(folder.rglob("*")) if ".twin" not in path.parts and path.is_file()]
    assert len(paths) > 10
    contents = [(path.name, path.read_bytes()) for path in paths]
    return [f"{name}: {form!r}" for name, content in contents for form in wanted if form in content]


@pytest.fixture(scope="module")
def planted(home: Home) -> Iterator[Home]:
    """Return a home whose params refer to the secret, with a twin whose host 2 has it in many places."""
    file = home.path / home.params
    text = file.read_text(encoding="utf-8")
    assert "    source:\n" in text
    file.write_text(text.replace("    source:\n", "    source:\n      token: env:PLANTED\n", 1), encoding="utf-8")
    with_env = _with_env(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(home.path / "config"))
        make_key(Path(home.params).stem, "alice@ops")
    assert with_env.runbook("twin", "up", home.params, "--fresh").code == 0
    quoted = shlex.quote(SECRET)
    b64 = base64.b64encode(b"x" + SECRET.encode()).decode()
    tools = "/usr/local/Ascend/driver/tools"
    wrapper = f"""#!/bin/sh
case "$*" in
  *" -s "*) printf 'cannot set, token is %s\\n' {quoted} >&2; printf '%s\\n' {b64}; exit 1;;
esac
exec {tools}/real/hccn_tool "$@"
"""
    os_release = shlex.quote(f"PRETTY_NAME={SECRET}")
    with_env.ssh(
        2,
        "mkdir -m 700 /var/lib/ascend-runbook; "
        f"sed -i /^PRETTY_NAME/d /etc/os-release; echo {os_release} >>/etc/os-release; "
        f"printf '#%s %s\\n' {quoted} {b64} >>/etc/hccn.conf; mkdir {tools}/real; mv {tools}/hccn_tool {tools}/real; "
        f"printf %s {shlex.quote(wrapper)} >{tools}/hccn_tool; chmod 755 {tools}/hccn_tool",
    )
    yield with_env
    with_env.runbook("twin", "down", home.params)


def _with_env(home: Home) -> Home:
    class WithEnv(type(home)):  # type: ignore[misc]  # the class is known at run time only
        @property
        def env(self) -> dict[str, str]:
            return dict(super().env) | {"PLANTED": SECRET, "XDG_CONFIG_HOME": str(self.path / "config")}

    return WithEnv(**{field.name: getattr(home, field.name) for field in dataclasses.fields(home)})


def test_no_byte_of_a_secret_is_recorded(planted: Home) -> None:
    """No byte of it, and the record of the failed run is signed, and known to the host that it reached."""
    quick = ("--set", "network.ping_matrix=neighbour", "--set", "network.hccl=off")
    done = planted.runbook("run", planted.params, "--mode", "apply", "--yes", "--json", "--stage", "network", *quick)
    assert done.code == 1
    result = done.json
    run = Path(result["run_dir"])
    assert "token is" in (run / "network.json").read_text(encoding="utf-8")  # the failing tool was really heard
    assert MASK in (run / "network.json").read_text(encoding="utf-8")
    assert MASK in (run / "network.ipynb").read_text(encoding="utf-8")
    assert not any(form in (done.out + done.err).encode() for form in forms())
    assert "masked_late" not in (run / "events.jsonl").read_text(encoding="utf-8")  # nothing got as far as that
    _the_hosts_know(planted, run)

    by_hand = planted.path / "outputs" / "by-hand.ipynb"
    argv = [sys.executable, "-m", "papermill", "notebooks/10_preflight.ipynb", str(by_hand), "--no-progress-bar"]
    argv += ["-p", "params", planted.params, "-p", "mode", "plan", "-k", "python3"]
    plain = subprocess.run(argv, cwd=planted.path, env=planted.env, capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stderr[-2000:]
    assert MASK in by_hand.read_text(encoding="utf-8")
    assert not any(form in (plain.stdout + plain.stderr).encode() for form in forms())

    assert leaks(planted.path / "outputs") == []


def _the_hosts_know(home: Home, run: Path) -> None:
    cluster = Path(home.params).stem
    audit = home.runbook("audit", "verify", cluster, "--json")
    assert audit.code == 0, audit.out
    assert audit.json["runs"][0]["signer"] == "alice@ops"
    assert audit.json["anchor"]["state"] == "ok"
    assert "node2" in audit.json["anchor"]["why"]
    assert home.ssh(2, f"cat /var/lib/ascend-runbook/heads/{cluster}").split()[0] == run.name


def test_the_search_would_find_them(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "plain.txt").write_text(SECRET, encoding="utf-8")
    (tmp_path / "json.txt").write_text(json.dumps({"a": [SECRET]}), encoding="utf-8")
    for offset in range(3):
        text = base64.b64encode(b"y" * offset + SECRET.encode() + b"end").decode()
        (tmp_path / f"b64-{offset}.txt").write_text(text, encoding="utf-8")
    assert {leak.split(":")[0] for leak in leaks(tmp_path)} == {
        "plain.txt", "json.txt", "b64-0.txt", "b64-1.txt", "b64-2.txt"
    }  # fmt: skip


def test_the_environment_and_tracebacks_stay_out_of_a_notebook(tmp_path: Path) -> None:
    code = [
        "import base64, os, shlex\nsecret = os.environ['PLANTED']\nprint(dict(os.environ))\nsecret",
        "print(base64.b64encode(b'ab' + secret.encode()).decode(), shlex.quote(secret))",
        "def call(token):\n    raise RuntimeError(f'login failed for {token!r}')\n\ncall(secret)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in code])  # type: ignore[no-untyped-call]  # nbformat types half of itself
    source, target = tmp_path / "source.ipynb", tmp_path / "target.ipynb"
    nbformat.write(notebook, source)  # type: ignore[no-untyped-call]  # see above
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED", SECRET)
        result = execute_notebook(
            source, target, {}, deadline_s=60, redactor=Redactor([SecretValue(SECRET)]), cwd=tmp_path
        )
    assert result.status == "failed"
    assert "login failed" in result.error
    written = target.read_bytes() + result.error.encode()
    assert MASK.encode() in written
    assert [form for form in forms() if form in written] == []
