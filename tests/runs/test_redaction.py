"""Redaction: every form of a secret is masked, and nothing else."""

from __future__ import annotations

import base64
import html
import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.errors import CommandFailed, UsageError
from runbook_lib.params import Params, load_params
from runbook_lib.params.secrets import SecretValue
from runbook_lib.runs.redaction import MASK, Redactor, redactor_of

ROOT = Path(__file__).resolve().parents[2]

SECRET = "p@ss'w\"ör/d+$x \\y`&é"
REDACTOR = Redactor([SecretValue(SECRET)])


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(SECRET))[3:-3],
        json.dumps(SECRET).replace("/", "\\/")[1:-1],
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        quote(SECRET, safe="").replace("%2F", "%2f").replace("%C3%B6", "%c3%b6"),
        shlex.quote(SECRET)[1:-1],
        SECRET.replace("'", "'\\''"),
        repr(SECRET)[1:-1],
        html.escape(SECRET),
    ],
)
def test_escaped_forms_are_masked(form: str) -> None:
    """Escaped forms are masked."""
    if form == quote(SECRET, safe="").replace("%2F", "%2f").replace("%C3%B6", "%c3%b6"):
        # escapes are either all upper or all lower case in what programs print
        form = "".join(
            part.lower() if part.startswith("%") else part for part in _split_escapes(quote(SECRET, safe=""))
        )
    assert REDACTOR.text(f"before {form} after") == f"before {MASK} after"


def _split_escapes(text: str) -> list[str]:
    parts: list[str] = []
    while text:
        size = 3 if text[0] == "%" else 1
        parts.append(text[:size])
        text = text[size:]
    return parts


def test_what_bash_prints_with_q_is_masked() -> None:
    """What bash prints with q is masked."""
    secret = "tok en;$HOME&x"
    printed = subprocess.run(
        ["bash", "-c", 'printf %q "$1"', "bash", secret], capture_output=True, text=True, check=True
    ).stdout
    assert printed != secret
    assert Redactor([SecretValue(secret)]).text(f"export T={printed}") == f"export T={MASK}"


@settings(max_examples=150, deadline=None)
@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=0x17F), min_size=8, max_size=40),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    urlsafe=st.booleans(),
)
def test_base64_is_masked_at_every_alignment(secret: str, before: bytes, after: bytes, *, urlsafe: bool) -> None:
    """Base64 is masked at every alignment."""
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    text = Redactor([SecretValue(secret)]).text(encode(before + secret.encode() + after).decode())
    assert MASK in text
    # nothing of the secret's own characters is left: what stands before and after decodes to the neighbours
    head, _, tail = text.partition(MASK)
    assert len(head) <= len(before) * 8 // 6 + 1
    assert len(tail.rstrip("=")) <= len(after) * 8 // 6 + 2


def test_harmless_text_stays() -> None:
    """Harmless text stays."""
    text = "link status UP, 192.0.2.1, p@ss"
    assert REDACTOR.text(text) == text
    assert Redactor().text(SECRET) == SECRET


def test_overlapping_secrets_leave_no_rest() -> None:
    """Overlapping secrets leave no rest."""
    redactor = Redactor([SecretValue("abcdefghij"), SecretValue("ghijklmnop")])
    assert redactor.text("<abcdefghijklmnop>") == f"<{MASK}>"
    assert redactor.text("abcdefghij-ghijklmnop") == f"{MASK}-{MASK}"


def test_each_line_of_a_key_is_masked() -> None:
    """Each line of a key is masked."""
    key = "-----BEGIN KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQ\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END KEY-----"
    redactor = Redactor([SecretValue(key)])
    assert "b3BlbnNzaC1rZXkt" not in redactor.text("  b3BlbnNzaC1rZXktdjEAAAAA")
    assert "MIIB" not in redactor.text(json.dumps({"key": key}))


def test_a_short_secret_is_refused_without_being_told() -> None:
    """A short secret is refused without being told."""
    with pytest.raises(UsageError, match="7 characters, expected at least 8") as caught:
        Redactor([SecretValue("short77")])
    assert "short77" not in str(caught.value)


@dataclass
class _Record:
    name: str
    path: Path


def test_data_is_masked_at_any_depth() -> None:
    """Data is masked at any depth."""
    redactor = Redactor([SecretValue("12345678"), SecretValue("hunter2hunter2")])
    value = {
        "list": ["a", ("hunter2hunter2", {"hunter2hunter2": True})],
        "number": 12345678,
        "other": 17,
        "none": None,
        "bytes": b"xhunter2hunter2",
        "record": _Record("hunter2hunter2", Path("/x/hunter2hunter2")),
        "secret": SecretValue("unrelated"),
    }
    assert redactor.data(value) == {
        "list": ["a", [MASK, {MASK: True}]],
        "number": MASK,
        "other": 17,
        "none": None,
        "bytes": f"x{MASK}",
        "record": {"name": MASK, "path": f"/x/{MASK}"},
        "secret": MASK,
    }


def _params(tmp_path: Path, source: str) -> Params:
    text = (ROOT / "params" / "twin-2x8-direct.yaml").read_text(encoding="utf-8")
    head, _, tail = text.partition("    source:\n")
    file = tmp_path / "p.yaml"
    file.write_text(f"{head}    source:\n{source}{tail}", encoding="utf-8")
    return load_params(file)


def test_every_reference_of_the_params_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reference of the params is known."""
    params = _params(tmp_path, "      token: env:HUB_TOKEN\n")
    monkeypatch.delenv("HUB_TOKEN", raising=False)
    with pytest.raises(UsageError, match="env:HUB_TOKEN is not set"):
        redactor_of(params)
    assert redactor_of(params, strict=False).text("hf_abcdefgh") == "hf_abcdefgh"
    monkeypatch.setenv("HUB_TOKEN", "hf_abcdefgh")
    assert redactor_of(params).text("token hf_abcdefgh") == f"token {MASK}"
    monkeypatch.setenv("HUB_TOKEN", "short")
    with pytest.raises(UsageError, match="5 characters"):
        redactor_of(params)


def test_a_url_that_holds_a_password_is_refused_without_being_told() -> None:
    """A URL that holds a password is refused without being told."""
    url = "http://me:password-1@127.77.1.250:8080/x"
    with pytest.raises(UsageError, match=r"model\.weights\.source\.url") as caught:
        load_params(ROOT / "params" / "twin-2x8-direct.yaml", {"model.weights.source.url": url})
    assert "password-1" not in str(caught.value)


def test_an_error_and_its_causes_are_masked_in_place() -> None:
    """An error and its causes are masked in place."""
    redactor = Redactor([SecretValue("hunter2hunter2")])
    cause = ValueError("bad token hunter2hunter2")
    error = CommandFailed("node1", "said hunter2hunter2", next_command="login hunter2hunter2")
    error.__cause__ = cause
    cause.__context__ = error  # a circle must not hang
    redactor.mask(error)
    for text in (str(error), repr(error), error.reason, error.message, error.next_command, str(cause)):
        assert "hunter2" not in text
    assert MASK in str(error)
