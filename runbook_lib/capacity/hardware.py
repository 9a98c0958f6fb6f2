"""What the cards can do. Peaks and bandwidths are data-sheet values; what is reached of them stands in constants.py.

Source: HWConf table of a public Ascend inference simulator (engine_model.md section 1); vendor sheets differ from it
by up to 10 %, which the planner's intervals cover.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """One NPU (of a 910C: one die). Bandwidths are one way, in GB/s; peaks in TFLOPS or TOPS; memory in GiB.

    links: network ports of one host that carry one collective together (8 cards of an 800I A2, a port each).
    """

    name: str
    fp16_tflops: float
    int8_tops: float
    hbm_gib: float
    hbm_gb_s: float
    inside_gb_s: float
    between_gb_s: float
    links: int = 8

    def bus_gb_s(self, *, inside: bool) -> float:
        """Return the bandwidth that an ideal all-reduce sees: inside a host, or first inside and then between hosts.

        Between hosts each of the ports carries its share at once, so the two legs add up as resistors in a row.
        """
        if inside:
            return self.inside_gb_s
        return 1.0 / (1.0 / self.inside_gb_s + 1.0 / (self.links * self.between_gb_s))


# 50 GB/s of the table is 200 Gb/s in both directions: 25 GB/s one way. HCCS: 196 GB/s one way.
HARDWARE = {
    each.name: each
    for each in (
        Hardware("910b1", 378.9, 757.0, 64.0, 1600.0, 196.0, 25.0),
        Hardware("910b2", 353.8, 707.9, 64.0, 1600.0, 196.0, 25.0),
        Hardware("910b3", 294.9, 589.8, 64.0, 1600.0, 196.0, 25.0),
        Hardware("910b4", 245.7, 491.5, 32.0, 800.0, 32.0, 16.0),
        Hardware("910b4-1", 245.7, 491.5, 64.0, 800.0, 32.0, 16.0),
        Hardware("910c-die", 353.8, 707.9, 64.0, 1600.0, 196.0, 196.0),
    )
}
