"""The file /etc/hccn.conf of a host: what the tool replays at boot, and with `-cfg recovery`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend.hccn import HccnConf, parse_conf
from runbook_lib.stages.base import apply_command

if TYPE_CHECKING:
    from runbook_lib.model import Capture
    from runbook_lib.params import Card, Host, Params


def read_conf(capture: Capture) -> HccnConf | None:
    """Parse the file; None where it could not be read. A host that says that there is no such file has an empty one."""
    if capture.ok:
        return parse_conf(capture.stdout)
    return HccnConf() if capture.absent else None


def recovery_command(conf: HccnConf | None, params: Params, host: Host, card: Card, then: str) -> str:
    """Return what brings a port back: `-cfg recovery`, but the stage that mends the file where that would do harm.

    Recovery replays the card's lines of the file: another address there takes the card's own away, and its gateway with
    it; a gateway outside the segment makes it fail. A file that nobody can read is for a person to look at. then: what
    to look at when recovery does not help.
    """
    recovery = f"hccn_tool -i {card.id} -cfg recovery"
    if conf is None or conf.bad_lines:
        why = "cannot be read" if conf is None else f"holds {conf.bad_lines[0]!r}"
        return f"cat -n /etc/hccn.conf   # on {host.name}; it {why}, and recovery replays it; then {recovery}"
    kept = conf.cards.get(card.id, {})
    tls, mtu = str(params.cluster.tls), str(params.cluster.mtu)
    wanted = {
        "network": {"address": card.ip, "netmask": card.netmask, "tls_enable": tls, "mtu": mtu},
        "gateway": {"gateway": params.gateway(card), "netdetect": params.peer(host, card)},
    }
    for stage, values in wanted.items():
        other = [f"{key}_{card.id}={kept[key]}" for key, value in values.items() if kept.get(key, value) != value]
        if other:
            return (
                f"{apply_command(params, stage)}   # first: recovery replays {', '.join(other)} of hccn.conf;"
                f" then {recovery} on {host.name}"
            )
    return f"{recovery}   # on {host.name}; {then}"
