"""How a process inside a node asks the twin's resident process, with the standard library only."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

DEFAULT_LINK = "/opt/twin/link"
_CHUNK = 65536


class AskError(Exception):
    """The resident process is gone, or has no answer to that question."""


def ask(question: dict[str, Any], timeout_s: float = 30.0) -> dict[str, Any]:
    """Send a question ({"question": NAME, ...}, answered by `world.answers[NAME]`) and return the answer.

    Raises AskError.
    """
    try:
        link = Path(os.environ.get("TWIN_LINK", DEFAULT_LINK)).read_text(encoding="utf-8")
        address, port, node, token = link.split()
        message = "".join(f"{field}\0" for field in ("ask", token, node, json.dumps(question)))
        answer = exchange(address, int(port), message, timeout_s)
    except (OSError, ValueError) as error:
        raise AskError(f"the twin does not answer: {error}") from error
    if "error" in answer:
        raise AskError(str(answer["error"]))
    return answer


def exchange(address: str, port: int, message: str, timeout_s: float) -> dict[str, Any]:
    """Send one message to the tool port and return its JSON answer. Raises OSError or ValueError."""
    with socket.create_connection((address, port), timeout=timeout_s) as connection:
        connection.sendall(message.encode("utf-8", "surrogateescape"))
        received = bytearray()
        while chunk := connection.recv(_CHUNK):
            received += chunk
    return dict(json.loads(received))
