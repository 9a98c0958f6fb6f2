"""The executed notebook as a file: true states of its cells, no secret in it, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from papermill.engines import NotebookExecutionManager
from papermill.iorw import write_ipynb
from papermill.log import logger

from runbook_lib.errors import RecordError
from runbook_lib.runs.folder import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.runs.execution import Outcome
    from runbook_lib.runs.redaction import Redactor


class NotebookRecord(NotebookExecutionManager):  # type: ignore[misc]  # papermill has no type information
    """Papermill's record keeper with true cell states, redaction, and saving that replaces the file as a whole."""

    def __init__(self, nb: Any, redactor: Redactor | None, outcome: Outcome, **kwargs: Any) -> None:  # noqa: ANN401 - papermill's
        super().__init__(nb, **kwargs)
        self.nb: Any = nb
        self.redactor = redactor
        self.outcome = outcome
        self.dirty = False
        self.settle: Callable[[], None] = lambda: None

    def cell_log(self, index: int) -> Path | None:
        """Return the file for output that a cell has too much of, None when the notebook itself is no local file."""
        if not self.output_path or "://" in str(self.output_path):
            return None
        target = Path(self.output_path)
        return target.with_name(f"{target.stem}.cell-{index}.log")

    def notebook_start(self, **kwargs: Any) -> None:  # noqa: ANN401 - papermill's
        """Begin the record; what an earlier execution left beside it is not of this one."""
        for index in range(len(self.nb.cells)):
            log = self.cell_log(index)
            if log is not None:
                log.unlink(missing_ok=True)
        super().notebook_start(**kwargs)

    def save(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Write the notebook as it stands, redacted. Raises RecordError."""
        self.settle()
        self.dirty = False
        if self.output_path:
            self._write(self._redacted())

    def _write(self, clean: Any) -> None:  # noqa: ANN401 - a notebook node
        if "://" in str(self.output_path):
            write_ipynb(clean, self.output_path)
        else:
            text: str = nbformat.writes(clean)  # type: ignore[no-untyped-call]  # nbformat types half of itself
            atomic_write(Path(self.output_path), text.encode("utf-8", "backslashreplace") + b"\n")
        self.last_save_time = self.now()

    def try_save(self) -> None:
        """Save while the notebook runs; a full disk must not end a change half done. The last save does raise."""
        try:
            self.save()
        except RecordError as error:
            self.dirty = True
            logger.warning("%s", error)

    def autosave_cell(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Note that there is something to save; papermill asks at every message."""
        self.dirty = True

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Mark a cell as running."""
        cell.metadata.papermill.update(start_time=self.now().isoformat(), status=self.RUNNING, exception=False)
        if self.log_output:
            logger.info("Executing cell %s", cell_index)
        self.dirty = True

    def cell_complete(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Close a cell: completed unless it was marked as failed."""
        record, end = cell.metadata.papermill, self.now()
        started = type(end).fromisoformat(record["start_time"])
        record.update(end_time=end.isoformat(), duration=(end - started).total_seconds())
        if record["status"] != self.FAILED:
            record["status"] = self.COMPLETED
        self.dirty = True
        if self.log_output:
            logger.info("Ended cell %s: %s", cell_index, record["status"])

    def notebook_complete(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Close the notebook. What never ran stays pending. Raises RecordError when it cannot be saved."""
        self.end_time = self.now()
        record = self.nb.metadata.papermill
        record.update(end_time=self.end_time.isoformat(), duration=(self.end_time - self.start_time).total_seconds())
        if self.outcome.status != "completed":
            record["exception"] = True
        for cell in self.nb.cells:
            if cell.metadata.papermill["status"] == self.RUNNING:
                self.cell_exception(cell)
        self.cleanup_pbar()
        self.settle()
        # papermill itself reads and writes this object from here on
        self.nb = self._redacted()
        self.dirty = False
        if self.output_path:
            self._write(self.nb)

    def _redacted(self) -> Any:  # noqa: ANN401 - a notebook node
        if self.redactor is None:
            return self.nb
        return nbformat.from_dict(self.redactor.data(self.nb))  # type: ignore[no-untyped-call]  # see save
