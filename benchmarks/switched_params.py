"""Print the params of a twin of N hosts behind RoCE switches, with its cabling plan: 1 to 200 hosts of 8 cards.

python benchmarks/switched_params.py 64 --network 127.87.1 > params/twin-64x8-switch.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parents[1] / "params" / "twin-4x8-switch.yaml"
HOSTS_PER_LEAF = 8
CARDS = 8
MOST = 200  # the last part of 127.A.B.C; 250 and 254 are the hub's and the twin's own


def card(host: int, number: int, segment: str) -> str:
    """Return one card's line; two cards share a 400GE port of the leaf switch."""
    leaf, place = divmod(host, HOSTS_PER_LEAF)
    port, half = divmod(place * CARDS + number, 2)
    return (
        f"        - {{id: {number}, ip: {segment}.{host}.{10 + number}, netmask: 255.255.0.0, gateway: {segment}.0.1, "
        f'port: "400GE1/1/{port + 1}:{half + 1}", switch: "10:24:07:6a:00:{leaf + 1:02x}"}}'
    )


def hosts(count: int, network: str, segment: str) -> str:
    """Return the lines below `hosts:`."""
    lines = []
    for host in range(count):
        address = f"{network}.{host + 1}"
        lines += [f"    - name: node{host + 1}", f"      address: {address}", f"      service_ip: {address}"]
        lines += ["      cards:", *(card(host, number, segment) for number in range(CARDS))]
    return "\n".join(lines) + "\n"


def params(count: int, network: str, segment: str = "10.30") -> str:
    """Return the text of a params file, made from that of four hosts."""
    text = TEMPLATE.read_text(encoding="utf-8")
    begin, end = text.index("    - name: node1"), text.index("\nmodel:")
    old = next(line for line in text.splitlines() if line.startswith("  network:")).split()[1]
    head, tail = text[:begin], text[end:]
    for before, after in (("twin-4x8-switch", f"twin-{count}x8-switch"), (old, network)):
        head, tail = head.replace(before, after), tail.replace(before, after)
    head = head.replace("four emulated servers of 8 cards behind a RoCE switch", f"{count} emulated servers of 8 cards")
    return head + hosts(count, network, segment) + tail


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", type=int, choices=range(1, MOST + 1), metavar="N")
    parser.add_argument("--network", default="127.87.1")
    asked = parser.parse_args()
    sys.stdout.write(params(asked.hosts, asked.network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
