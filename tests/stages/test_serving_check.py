"""The pushed check of every kind of request: a right service passes, and each wrong one is named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.stages.push import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

USAGE = {"prompt_tokens": 4, "completion_tokens": 2}


class Fake(BaseHTTPRequestHandler):
    """A service with one flaw, or none; `flaw` and `ready` are set by the test."""

    flaw = ""
    ready = 200
    hung = threading.Event()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer the gate."""
        self._send(self.ready, "")

    def do_POST(self) -> None:
        """Answer like MindIE."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.flaw == "hangs":
            Fake.hung.wait(5)
            return
        chat = self.path.endswith("chat/completions")
        refuses = self.flaw != "takes anything"
        if refuses and (asked["model"] != "m" or (chat and "messages" not in asked)):
            self._send(422, '{"error": "no"}')
        elif len(asked.get("prompt", "")) > 500:
            self._send(422, '{"error": "too long"}')
        elif asked.get("stream"):
            self._stream(chat)
        else:
            self._send(200, json.dumps(self._whole(chat)))

    def _whole(self, chat: bool) -> dict[str, Any]:  # noqa: FBT001 - one of two forms
        text = "" if self.flaw == "empty" else "<think>hm</think> Earth" if self.flaw == "thinks aloud" else "Earth"
        message = {"role": "assistant", "content": text, "reasoning_content": "hm" if self.flaw != "empty" else ""}
        tokens = 999 if self.flaw == "no end" else 2
        choice = {"message": message} if chat else {"text": text}
        return {"choices": [choice], "usage": USAGE | {"completion_tokens": tokens}}

    def _stream(self, chat: bool) -> None:  # noqa: FBT001 - one of two forms
        piece = {"delta": {"content": "Earth"}} if chat else {"text": "Earth"}
        end = "" if self.flaw == "no mark" else "data: [DONE]\n\n"
        self._send(200, f"data: {json.dumps({'choices': [piece]})}\n\n{end}")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server() -> Iterator[str]:
    """Serve on a free port of this machine."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def asked(base: str) -> dict[str, Any]:
    """Run the check as a host does."""
    argv = [sys.executable, "-c", bundle("serving_check.py"), base, "m", "100", f"{base}/ready", "1"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


@pytest.mark.parametrize(
    ("flaw", "wrong"),
    [
        ("", set()),
        ("empty", {"chat", "completion"}),
        ("thinks aloud", {"reasoning"}),
        ("no end", {"chat", "completion"}),
        ("no mark", {"chat-stream", "completion-stream"}),
        ("takes anything", {"wrong-model", "no-messages"}),
    ],
)
def test_each_flaw_is_named(server: str, monkeypatch: pytest.MonkeyPatch, flaw: str, wrong: set[str]) -> None:
    """Eight kinds are asked; exactly those that the flaw spoils are not ok."""
    monkeypatch.setattr(Fake, "flaw", flaw)
    said = asked(server)
    checks = said["checks"]
    assert (said["answer"]["status"], "choices" in json.loads(said["answer"]["body"])) == (200, True)
    assert len(checks) == 8
    assert {each["name"] for each in checks if not each["ok"]} == wrong


def test_a_service_that_is_not_ready_is_not_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the gate is touched."""
    monkeypatch.setattr(Fake, "ready", 503)
    assert "does not answer 200" in asked(server)["error"]


def test_a_service_that_hangs_is_waited_for_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health is green and no token comes: one deadline, and nothing more is asked."""
    monkeypatch.setattr(Fake, "flaw", "hangs")
    said = asked(server)
    Fake.hung.set()
    assert (said["answer"]["status"], "no answer in 1 s" in said["error"]) == (0, True)
    assert "checks" not in said
