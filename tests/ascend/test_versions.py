"""Driver and firmware pairing, and os-release."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend.versions import pairing, parse_os_release, parse_version_info
from runbook_lib.model import Verdict

DRIVER = "Version=24.1.0\ncompatible_version_fw=[7.0.0,7.5.99]\npackage_version=24.1.0\n"
FIRMWARE = "Version=7.5.0.1.129\nfirmware_version=1.0\npackage_version=24.1.0\n"


@pytest.mark.parametrize(
    ("driver", "firmware", "verdict"),
    [
        (DRIVER, FIRMWARE, Verdict.OK),
        (DRIVER, FIRMWARE.replace("7.5.0.1.129", "7.6.0.1.1"), Verdict.FAIL),
        (DRIVER, FIRMWARE.replace("7.5.0.1.129", "6.4.12.1"), Verdict.FAIL),
        (DRIVER, FIRMWARE.replace("7.5.0.1.129", "7.5.99.1.1"), Verdict.OK),
        (DRIVER, FIRMWARE.replace("package_version=24.1.0", "package_version=23.0.7"), Verdict.WARN),
        (DRIVER, FIRMWARE.replace("package_version=24.1.0", ""), Verdict.UNKNOWN),
        (DRIVER, FIRMWARE.replace("7.5.0.1.129", "7.5.t10.0"), Verdict.UNKNOWN),
        (DRIVER.replace("compatible_version_fw", "x"), FIRMWARE, Verdict.UNKNOWN),
        (DRIVER, "", Verdict.UNKNOWN),
        ("", FIRMWARE, Verdict.UNKNOWN),
    ],
)
def test_pairing(driver: str, firmware: str, verdict: Verdict) -> None:
    assert pairing(parse_version_info(driver), parse_version_info(firmware)).verdict is verdict


def test_os_release() -> None:
    system = parse_os_release('NAME="openEuler"\nID="openEuler"\nVERSION_ID="22.03"\nPRETTY_NAME="openEuler 22.03"\n')
    assert (system.id, system.version_id, system.pretty_name) == ("openEuler", "22.03", "openEuler 22.03")
    assert parse_os_release("nothing").id is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.text(max_size=30))
def test_no_text_raises_and_none_pairs(text: str, version: str) -> None:
    parse_os_release(text)
    odd = parse_version_info(f"Version={version}\n{text}")
    assert pairing(odd, parse_version_info(text)).verdict is not Verdict.OK
