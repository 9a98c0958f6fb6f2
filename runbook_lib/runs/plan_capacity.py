"""The capacity notebook's objects: everything that it shows, from params alone; no host is touched."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from runbook_lib.capacity.fragment import fragment
from runbook_lib.capacity.level import Load
from runbook_lib.capacity.planner import all_blocks
from runbook_lib.capacity.workload import Lengths
from runbook_lib.params import load_params
from runbook_lib.runs.capacity import plan_json, planned, setup_of
from runbook_lib.runs.show import Shown
from runbook_lib.views.capacity import capacity_html, memory_figure, plan_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runbook_lib.capacity.planner import Plan
    from runbook_lib.params import Params


class CapacityView:
    """What the hosts of the params can carry."""

    def __init__(self, params: Params, file: str) -> None:
        self.params = params
        self.file = file
        self.setup = setup_of(params)

    @cached_property
    def result(self) -> Plan:
        """The plan, made once."""
        bench, wanted = self.params.benchmark, self.params.capacity
        load = Load(Lengths(bench.input_tokens), Lengths(bench.output_tokens), max(1000, bench.requests_per_level))
        return planned(self.params, load, (wanted.ttft_ms, wanted.tpot_ms))

    def context(self) -> Shown:
        """Show what is planned for."""
        bench, wanted, layout = self.params.benchmark, self.params.capacity, self.setup.layout
        return Shown.table(
            self.params.cluster.name,
            {
                "cards": f"{self.params.world_size} x {wanted.hardware}, {len(self.params.cluster.hosts)} hosts",
                "model": f"{self.params.model.name}, {self.params.model.format}",
                "layout": layout.name,
                "lengths": f"{bench.input_tokens} tokens in, {bench.output_tokens} out",
                "service level": f"first token {_ms(wanted.ttft_ms)}, further tokens {_ms(wanted.tpot_ms)}",
            },
        )

    def memory(self) -> Shown:
        """Show what one card's memory holds, term by term."""
        picture = self.setup.memory
        rows = {term.name: f"{term.gib:.2f} GiB: {term.why}" for term in picture.terms}
        rows["KV blocks"] = f"{picture.blocks} per dp group, {all_blocks(self.setup)} in all"
        table = Shown.table("Memory of one card", rows)
        return Shown(table.html + memory_figure([("as in the params", picture)]), table.text, rows)

    def plan(self) -> Shown:
        """Show every deployment, best first, with its curves."""
        return Shown(capacity_html(self.result), plan_text(self.result), plan_json(self.result, self.file))

    def settings(self) -> Shown:
        """Show the settings of the best deployment, to be put into the params file."""
        best = self.result.best
        text = fragment(best) if best is not None else ""
        return (
            Shown.line(f"no deployment can be used: {self.result.current.reason}")
            if not text
            else Shown(f"<pre>{text}</pre>", text, text)
        )

    def next_step(self) -> Shown:
        """Name the next command."""
        return Shown.line(f"next: take over what you want, then: runbook params validate {self.file}")


def _ms(value: float | None) -> str:
    return "as it comes" if value is None else f"{value:g} ms"


def open_capacity(params: str | Path, overrides: Mapping[str, Any] | str | None = None) -> CapacityView:
    """Read the params. Raises ParamsError."""
    return CapacityView(load_params(params, overrides), str(params))
