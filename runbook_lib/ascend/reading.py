"""What a tool said, read into a value or into an honest "not known"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Never, TypeVar

if TYPE_CHECKING:
    from runbook_lib.model import Capture

State = Literal["set", "unset", "unreadable", "error"]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LONGEST_MESSAGE = 300
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,12})?")
_NOT_RUNNABLE = frozenset({126, 127})  # what a shell answers for "cannot execute" and "not found"

# The words come from the tools' sources; the exit codes collide in their low byte, so words decide.
REFUSALS: tuple[tuple[str, str], ...] = (
    (r"hccn_tool is busy", "busy"),
    (
        (
            r"permission denied|run permission|can't access|operation not permitted|password is required"
            r"|权限不够|不允许的操作"
        ),
        "permission",
    ),
    (r"device is not exist|invalid device id|invalid card id|error parameter of -i", "no-device"),
    (r"not supported on this product", "unsupported"),
    (r"link status is down", "link-down"),
    (r"control link unreachable", "unreachable"),
    (r"dcmi mod(?:ule|el) initiali[sz]ed? failed.*\bdevice is used", "in-use"),
    (r"dcmi mod(?:ule|el) initiali[sz]ed? failed", "driver"),
    # sudo answers it with 1, not 127
    (
        (
            r"command not found|未找到命令"
            r"|(?:hccn_tool|npu-smi|docker)[:\uff1a] ?(?:no such file or directory|没有那个文件或目录)"
        ),
        "not-installed",
    ),
    (r"cannot connect to the docker daemon|is the docker daemon running", "daemon-down"),
    (
        (
            r"^\s*get invalid|^\s*get unknown option|total count of input parameters is wrong"
            r"|ip address (?:you )?configured is|segment of configured gateway|unable to configure gateway"
            r"|route already exist|error parameter of"
        ),
        "refused",
    ),
    (
        (
            r"npu get board type failed"
            r"|cmd execute failed|command execute failed|failed to execute npu-smi|get device health status failed"
            r"|^\s*execute failed|is doing, please try later|recovery failed|config file failed"
            r"|hccn\.conf has no enough space"
        ),
        "failed",
    ),
)
# asked first, since most answers are none of these: every pattern above holds one of these words
_CLUES = (
    "is busy", "permission", "can't access", "not permitted", "password is", "not exist", "invalid",
    "error parameter", "not supported", "status is down", "unreachable", "dcmi mod", "not found",
    "no such file", "docker daemon", "unknown option", "is wrong", "configured is", "configured gateway",
    "configure gateway", "already exist", "execute failed", "failed to execute", "status failed", "try later",
    "recovery failed", "file failed", "enough space", "board type failed",
    "权限不够", "不允许的操作", "未找到命令", "没有那个文件或目录",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading(Generic[T_co]):
    """One value as a tool reported it.

    state: `set` (value is known), `unset` (the tool says that nothing is configured), `error` (the tool
        says that it could not), `unreadable` (we did not understand what came back, or nothing did).
    message: the tool's own words, first line.
    reason: for `error` and `unreadable` a stable word: busy, permission, no-device, unsupported, link-down,
        unreachable, driver, in-use (of a container), daemon-down, refused (the arguments), failed, not-installed,
        timeout, not-run, empty, text.
    """

    value: T_co | None
    state: State
    message: str = ""
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether the tool gave a clear answer: a value, or that there is none."""
        return self.state in {"set", "unset"}


def first_words(capture: Capture) -> str:
    """Return the first line that says something, stderr first, at most 300 characters."""
    for text in (capture.stderr, capture.stdout):
        words = text.lstrip()
        if words:
            return words[:_LONGEST_MESSAGE].splitlines()[0].rstrip()
    return ""


def found(value: T, message: str = "") -> Reading[T]:
    """Wrap a value that the tool reported."""
    return Reading(value, "set", message)


def unset(message: str = "") -> Reading[Never]:
    """Say that the tool reports nothing configured."""
    return Reading(None, "unset", message)


def unreadable(capture: Capture, reason: str = "text") -> Reading[Never]:
    """Say that the output was not understood."""
    message = first_words(capture)
    return Reading(None, "unreadable", message, reason if message or reason != "text" else "empty")


def not_run(capture: Capture) -> Reading[Never] | None:
    """Return why there is no output at all (timeout, never ran, no such program), or None."""
    if capture.timed_out:
        return Reading(None, "unreadable", first_words(capture), "timeout")
    if capture.exit_code is None:
        return Reading(None, "unreadable", first_words(capture), "not-run")
    if capture.exit_code in _NOT_RUNNABLE:
        return Reading(None, "error", first_words(capture), "not-installed")
    return None


def refusal(capture: Capture) -> Reading[Never] | None:
    """Return the error that the tool reported, by its words or else by its exit code; None if it worked."""
    absent = not_run(capture)
    if absent is not None:
        return absent
    text = f"{capture.stderr}\n{capture.stdout}"
    lower = text.lower()
    for pattern, reason in REFUSALS if any(map(lower.__contains__, _CLUES)) else ():
        match = re.search(rf"^.*(?:{pattern}).*$", text, re.IGNORECASE | re.MULTILINE)
        if match:
            return Reading(None, "error", match.group(0).strip()[:_LONGEST_MESSAGE], reason)
    if capture.exit_code != 0:
        return Reading(None, "error", first_words(capture), "failed")
    return None


def to_int(text: str) -> int | None:
    """Read a decimal integer of at most 18 digits; None for anything else."""
    return int(text) if _INTEGER.fullmatch(text.strip()) else None


def to_float(text: str) -> float | None:
    """Read a plain decimal number; None for anything else (also for `-`, `NA`, `inf`)."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None
