"""The outputs of one cell, held below a number of characters; what is over it goes to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class CellOutputs:
    """The outputs of one cell: the newest stay, older text goes to the cell's log file, and the first output says so.

    Stream text is kept in pieces and joined only when the notebook is saved; joining at each message would be
    quadratic. Stream messages of one name are one output until something else is displayed.
    """

    def __init__(
        self,
        outs: list[Any],
        cap: int,
        redacted: Callable[[str], str],
        moved: Callable[[int, int], None],
        log: Path | None,
    ) -> None:
        self.outs = outs
        self._cap = cap
        self._redacted = redacted
        self._moved = moved
        self._log = log
        self._streams: dict[str, tuple[Any, list[str]]] = {}
        self._unsettled = 0
        self._dropped = 0
        self._notice: Any = None
        self._shortened: Any = None

    def took(self, out: Any) -> None:  # noqa: ANN401 - a notebook node
        """Account for an output that nbclient has just appended."""
        self._unsettled += _size(out)
        if out.output_type != "stream":
            self._join()
            self._streams.clear()
        else:
            node, pieces = self._streams.get(out.name, (None, []))
            if node is not None and any(node is other for other in self.outs[-3:]):
                self.outs.pop()
                pieces.append(out.text)
            else:
                self._streams[out.name] = (out, [])
        if self._unsettled > self._cap:
            self.settle()

    def _join(self) -> None:
        for node, pieces in self._streams.values():
            node.text = _overwritten("".join([node.text, *pieces]))
            pieces.clear()

    def settle(self) -> None:
        """Join the pieces and move what is over the cap out, oldest first."""
        self._join()
        self._unsettled = 0
        if self._notice is not None and not any(self._notice is out for out in self.outs):
            self._notice, self._dropped = None, 0  # the cell has cleared its output
        sizes = [0 if out is self._notice else _size(out) for out in self.outs]
        if sum(sizes) > self._cap:
            self._drop(sizes)

    def end(self) -> None:
        """Complete the log file, where there is one: with the tail that the notebook keeps it is the whole text."""
        self.settle()
        if self._notice is not None:
            for out in self.outs:
                if out is not self._notice and out is not self._shortened:
                    self._put_away(self._redacted(_text(out)))

    def _drop(self, sizes: list[int]) -> None:
        excess = sum(sizes) - self._cap
        first = 1 if self._notice is not None else 0
        gone = 0
        while excess > 0 and first + gone < len(self.outs):
            out, size = self.outs[first + gone], sizes[first + gone]
            if size > excess and out.output_type == "stream":
                # a secret that is cut in two would not be found any more
                clean = self._redacted(out.text)
                self._put_away(clean[:excess])
                out.text = clean[excess:]
                self._dropped += excess
                break
            self._put_away(self._redacted(_text(out)))
            self._dropped += size
            if first + gone == len(self.outs) - 1 and out.output_type == "error":
                _shorten_error(out, self._cap, self._redacted)
                self._shortened = out
                break
            excess -= size
            gone += 1
        until, by = first + gone, gone
        del self.outs[first:until]
        if self._notice is None:
            self._notice = stderr("")
            self.outs.insert(0, self._notice)
            by -= 1
        self._moved(until, by)
        where = "were dropped" if self._log is None else f"are in {self._log.name}"
        self._notice.text = (
            f"[runbook] {self._dropped} characters of earlier output {where}: "
            f"a cell keeps its last {self._cap} characters\n"
        )

    def _put_away(self, text: str) -> None:
        if self._log is None or not text:
            return
        try:
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            # a full disk must not end a change half done; the notice says from now on what is true
            self._log = None


def stderr(text: str) -> Any:  # noqa: ANN401 - a notebook node
    """Return an output that shows text as a cell's stderr."""
    return nbformat.v4.new_output("stream", name="stderr", text=text)  # type: ignore[no-untyped-call]  # untyped


def _overwritten(text: str) -> str:
    r"""Return what a terminal would show of text with \r (progress bars), line by line."""
    if "\r" not in text:
        return text
    lines = (line.rstrip("\r").rpartition("\r")[2] + line[len(line.rstrip("\r")) :][:1] for line in text.split("\n"))
    return "\n".join(lines)


def _text(out: Any) -> str:  # noqa: ANN401 - a notebook node
    if out.output_type == "stream":
        return str(out.text)
    if out.output_type == "error":
        return "\n".join([*out.traceback, f"{out.ename}: {out.evalue}", ""])
    plain = out.data.get("text/plain")
    return f"{plain if isinstance(plain, str) else '[an output without text]'}\n"


def _size(out: Any) -> int:  # noqa: ANN401 - a notebook node
    if out.output_type == "stream":
        return len(out.text)
    if out.output_type == "error":
        return len(out.evalue) + sum(len(line) for line in out.traceback)
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in out.data.values())


def _shorten_error(out: Any, cap: int, redacted: Callable[[str], str]) -> None:  # noqa: ANN401 - a notebook node
    out.evalue = redacted(out.evalue)[-(cap // 2) :]
    out.traceback = [redacted("\n".join(out.traceback))[-(cap // 2) :]]
