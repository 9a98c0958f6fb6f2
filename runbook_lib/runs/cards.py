"""Power, temperature and HBM of the cards while a load runs, read over SSH by a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

from runbook_lib.ascend.npu_smi import parse_info
from runbook_lib.errors import HostError
from runbook_lib.remote import Host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.remote import Target

_COMMAND = ("npu-smi", "info")
_TIMEOUT_S = 20.0
_VALUES = ("power_w", "temp_c", "hbm_used_mb", "aicore_percent")


class CardSampler:
    """Reads every host every `every_s` seconds while it is open. What cannot be read is counted, and told."""

    def __init__(self, targets: Sequence[Target], every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._failed: dict[str, str] = {}
        self._begin = time.monotonic()
        self._threads = [
            threading.Thread(target=self._follow, args=(target,), name=f"cards-{target.name}", daemon=True)
            for target in targets
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _follow(self, target: Target) -> None:
        host = Host(target)
        try:
            host.open()
            while True:
                over = self._over.is_set()
                self._read(host)
                if over:
                    return
                self._over.wait(self._every_s)
        except HostError as error:
            with self._lock:
                self._failed[target.name] = str(error)
        finally:
            host.close()

    def _read(self, host: Host) -> None:
        at_s = round(time.monotonic() - self._begin, 3)
        info = parse_info(host.run(_COMMAND, _TIMEOUT_S)).value
        with self._lock:
            if info is None or not info.cards:
                self._failed[host.target.name] = "npu-smi info could not be read"
                return
            for card in info.cards:
                values = {name: getattr(card, name) for name in _VALUES}
                self._rows.append({"at_s": at_s, "host": host.target.name, "card": card.id, **values})

    def result(self) -> dict[str, Any]:
        """Return the series, its summary for each host, and what failed; call it after the end."""
        hosts = sorted({row["host"] for row in self._rows})
        return {
            "series": self._rows,
            "failed": self._failed,
            "summary": {host: _summary([row for row in self._rows if row["host"] == host]) for host in hosts},
        }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return mean and maximum over cards and time; what the table never said is missing."""
    result = {}
    for name in _VALUES:
        values = [float(row[name]) for row in rows if row[name] is not None]
        if values:
            result[f"{name}_mean"], result[f"{name}_max"] = sum(values) / len(values), max(values)
    return result
