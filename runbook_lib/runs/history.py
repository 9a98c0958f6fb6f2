"""What the runs of a cluster really changed, read from their events, and which of it can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from io import StringIO
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from runbook_lib.errors import RecordError
from runbook_lib.model import Change, from_json, to_json
from runbook_lib.params import Params
from runbook_lib.runs import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.runs.events import Event
    from runbook_lib.runs.folder import RunFolder

HALF_MADE = "begun; whether it was made is not recorded"
UNDO_MODES = ("rollback", "teardown")
_FIELDS = tuple(each.name for each in fields(Change))


@dataclass(frozen=True, slots=True)
class Made:
    """A change that was begun. `order` counts over the runs that are looked at; `state` is as apply recorded it."""

    run_id: str
    stage: str
    order: int
    digest: str
    change: Change
    state: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a plan of today names the same change by."""
        return (self.stage, str(self.change.subject), self.change.summary)


@dataclass(frozen=True, slots=True)
class RunHistory:
    """The changes of one run in the order in which they were begun, and the params that they were planned with."""

    folder: RunFolder
    start: Event | None
    params: Params
    made: tuple[Made, ...]


def read_history(folder: RunFolder, first: int = 0) -> RunHistory | None:
    """Return what a run changed, None when it changed nothing, or is itself an undo.

    first: the order of its first change. Raises RecordError when the chain does not hold: nothing is undone on the
    word of a record that was changed.
    """
    chain = events.read(folder.events)
    if not any(event.kind == "change_start" for event in chain):
        return None
    start = next((event for event in chain if event.kind == "run_start"), None)
    if start is not None and start.data.get("mode") in UNDO_MODES:
        return None
    problem = events.verify(folder.events, torn_ok=True)
    if problem:
        raise RecordError(f"{folder.path}: {problem}; nothing is undone on the word of a record that does not hold")
    return RunHistory(folder, start, _params(folder, chain), tuple(_made(folder, chain, first)))


def params_text(params: Params) -> str:
    """Return the resolved params as YAML; secrets are references there and stay so."""
    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(to_json(params), stream)
    return stream.getvalue()


def _params(folder: RunFolder, chain: Sequence[Event]) -> Params:
    """Return the params of a run: from its start, or from an apply of a notebook that was run by hand."""
    text = next(
        (
            event.data["params"]
            for event in chain
            if event.kind in {"run_start", "apply_start"} and event.data.get("params")
        ),
        "",
    )
    return read_params(folder, text)


def read_params(folder: RunFolder, text: str) -> Params:
    """Return the params that a run recorded as YAML. Raises RecordError when this version cannot read them."""
    try:
        return Params.model_validate(YAML(typ="safe").load(text))
    except ValueError as error:
        raise RecordError(f"{folder.path}: the params in its record cannot be read: {error}") from None


def _made(folder: RunFolder, chain: Sequence[Event], first: int) -> list[Made]:
    begun: dict[tuple[str, int], tuple[int, Event]] = {}
    found: list[tuple[int, Event, str]] = []
    for event in chain:
        where = (str(event.data.get("stage")), int(event.data.get("index", -1)))
        if event.kind == "change_start":
            if where in begun:
                found.append((*begun[where], HALF_MADE))
            begun[where] = (event.seq, event)
        elif event.kind == "change_end" and where in begun:
            found.append((*begun.pop(where), str(event.data["state"])))
    found += [(*entry, HALF_MADE) for entry in begun.values()]
    found.sort(key=lambda entry: entry[0])
    return [
        Made(
            folder.run_id,
            str(event.data["stage"]),
            first + number,
            f"{event.data.get('digest', '')}@{folder.run_id}",
            from_json(Change, {name: event.data[name] for name in _FIELDS}),
            state,
        )
        for number, (_, event, state) in enumerate(found)
    ]
