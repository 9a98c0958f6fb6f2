"""Cards: all there, healthy, of 64 GB, and free of what a dead or a foreign process left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict

if TYPE_CHECKING:
    from runbook_lib.ascend.npu_smi import Card, NpuInfo, Process
    from runbook_lib.params import Host
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.preflight.facts import HostFacts

HBM_MB = 65536  # DeepSeek 671B on A2 needs the 64 GB parts (npu-smi reference, section 1)
IDLE_HBM_MB = 4500  # an idle 64 GB card shows 3.3-4.2 GB used (npu-smi reference, section 1)


def check_cards(findings: Findings, host: Host, seen: HostFacts) -> None:
    """Judge the table of npu-smi; every card of the params gets its verdicts, also one that is not in the table."""
    subject = Subject(host.name)
    expected = f"{len(host.cards)} cards"
    info = seen.npus.value
    if info is None or info.unreadable_rows:
        said = seen.npus.message or seen.npus.state
        if info is not None:
            said = f"a row that cannot be read: {info.unreadable_rows[0]}"
        command = f"npu-smi info   # on {host.name}"
        # -8005: driver or firmware were changed without a reboot
        if seen.npus.reason == "driver":
            command = f"reboot   # on {host.name}; driver or firmware were changed without it"
        elif seen.npus.reason == "in-use":  # -8020: a container has the cards for itself
            command = f"docker ps -a   # on {host.name}; a container holds the cards, its owner stops it"
        findings.add("PRE-NPU-SMI", subject, Verdict.FAIL if _broken(seen) else Verdict.UNKNOWN, seen=said,
                     expected="a table of all cards", next_command=command)  # fmt: skip
        findings.add("PRE-CARDS", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        for card in host.cards:
            _unseen(findings, Subject(host.name, card.id), Verdict.UNKNOWN, said, command)
        return
    ids = {card.id for card in info.cards}
    missing = [card.id for card in host.cards if card.id not in ids]
    findings.add("PRE-NPU-SMI", subject, Verdict.OK, seen=f"npu-smi {info.version or '(no version)'}")
    findings.add(
        "PRE-CARDS",
        subject,
        Verdict.FAIL if missing else Verdict.OK,
        seen=f"{len(ids)} cards" + (f", without {missing}" if missing else ""),
        expected=expected,
        next_command=f"npu-smi info; lspci | grep acce   # on {host.name}; then a power cycle",
    )
    for number in missing:
        command = f"lspci | grep acce   # on {host.name}; then a power cycle"
        _unseen(findings, Subject(host.name, number), Verdict.FAIL, "npu-smi does not list the card", command)
    wanted = {card.id for card in host.cards}
    for chip in info.cards:
        if chip.id in wanted:  # the others are somebody else's
            _check_card(findings, host.name, chip)
            _check_leftover(findings, host.name, seen, info, chip)


def _unseen(findings: Findings, subject: Subject, health: Verdict, said: str, command: str) -> None:
    """Give a card that is not in the table its verdicts: nothing of it is known."""
    findings.add("PRE-CARD-HEALTH", subject, health, seen=said, expected="OK", next_command=command)
    for code, expected in (
        ("PRE-CARD-HBM-SIZE", f"{HBM_MB} MB"),
        ("PRE-HBM-LEFTOVER", f"at most {IDLE_HBM_MB} MB"),
    ):
        findings.add(code, subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)


def _broken(seen: HostFacts) -> bool:
    """Whether the tool itself said that it cannot: that is known, and no question of our reading."""
    said = {"driver", "in-use", "not-installed", "permission", "failed"}
    return seen.npus.state == "error" and seen.npus.reason in said


def _check_card(findings: Findings, host: str, card: Card) -> None:
    subject = Subject(host, card.id)
    command = f"npu-smi info -t health -i {card.id} -c 0   # on {host}"
    verdict = Verdict.UNKNOWN if card.health is None else Verdict.OK if card.health == "OK" else Verdict.FAIL
    if card.health == "UNKNOWN":
        verdict = Verdict.UNKNOWN
    findings.add(
        "PRE-CARD-HEALTH", subject, verdict, seen=card.health or "unreadable", expected="OK", next_command=command
    )
    total = card.hbm_total_mb
    verdict = Verdict.UNKNOWN if total is None else Verdict.OK if total >= HBM_MB else Verdict.FAIL
    findings.add(
        "PRE-CARD-HBM-SIZE",
        subject,
        verdict,
        seen=f"{total} MB" if total is not None else "unreadable",
        expected=f"{HBM_MB} MB",
        next_command=f"npu-smi info   # on {host}; the model needs 64 GB cards",
    )


def _check_leftover(findings: Findings, host: str, seen: HostFacts, info: NpuInfo, card: Card) -> None:
    used, rows = card.hbm_used_mb, info.processes_of(card.id)  # None: the table does not say, which is not "none"
    table = bool(info.processes or info.said_idle)
    verdict, said = _leftover(used, rows, seen, table=table)
    pids = [str(row.pid) for row in rows or () if row.pid is not None and row.pid not in (seen.our_pids or ())]
    if pids:
        command = f"ps -fp {','.join(pids)}"
        command += f"; kill {' '.join(pids)}   # on {host}" if verdict is Verdict.FAIL else f"   # on {host}"
    elif verdict is Verdict.FAIL and not rows:
        command = (
            f"npu-smi set -t reset -i {card.id} -c 0   # on {host}; when nothing runs on any card; reboot if it stays"
        )
    else:
        command = f"npu-smi info; docker ps   # on {host}; does anything run on card {card.id}?"
    findings.add(
        "PRE-HBM-LEFTOVER",
        Subject(host, card.id),
        verdict,
        seen=said,
        expected=f"at most {IDLE_HBM_MB} MB and no process but this cluster's own service",
        next_command=command,
    )


def _leftover(
    used: int | None, rows: tuple[Process, ...] | None, seen: HostFacts, *, table: bool
) -> tuple[Verdict, str]:
    said = f"{used} MB used" if used is not None else "memory unreadable"
    if rows:
        return _held(rows, seen, said, measured=used is not None)
    if used is None:
        return Verdict.UNKNOWN, said
    if used > IDLE_HBM_MB:
        # memory without a process is what a dead container leaves behind, also beside a running one
        verdict = Verdict.UNKNOWN if rows is None and seen.runs_ours is not False else Verdict.FAIL
        return verdict, f"{said}, {'no process' if rows is not None else 'processes not said'}"
    if rows is None:
        # a build that prints no process table at all (24.1.rc1 was seen to) leaves the memory as evidence
        return (Verdict.UNKNOWN if table else Verdict.WARN), f"{said}, processes not said"
    return Verdict.OK, said


def _held(rows: tuple[Process, ...], seen: HostFacts, said: str, *, measured: bool) -> tuple[Verdict, str]:
    """Judge a card that processes hold: only those of our own container are no leftover."""
    said += f" by pid {', '.join('unreadable' if each.pid is None else str(each.pid) for each in rows)}"
    pids = [each.pid for each in rows]
    if seen.our_pids is None or (seen.runs_ours and None in pids):
        return Verdict.UNKNOWN, f"{said}; whose they are cannot be told"
    if seen.our_pids and set(pids) <= seen.our_pids:
        return (Verdict.OK, f"{said} (ours)") if measured else (Verdict.UNKNOWN, said)
    return Verdict.FAIL, said
