"""Verdicts by colour, symbol and word; pages that load nothing; text that cannot act."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup

from runbook_lib.model import Verdict
from runbook_lib.views.html import badge, embed, page, plain, prose
from runbook_lib.views.style import DARK, LIGHT, LOOKS, STYLE_TAG


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable_on_its_background(palette: dict[str, str]) -> None:
    """Every verdict, and the plain text, reach the contrast of WCAG AA."""
    pairs = [(verdict.value, f"{verdict.value}-bg") for verdict in Verdict]
    pairs += [("ink", "paper"), ("ink", "panel"), ("soft", "paper"), ("accent", "panel")]
    for text, ground in pairs:
        light, dark = sorted((_luminance(palette[text]), _luminance(palette[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_badge_has_colour_symbol_and_word(verdict: Verdict) -> None:
    """No one of the three is needed to tell verdicts apart."""
    html = badge(verdict)
    assert f"v-{verdict.value}" in html
    assert f"{LOOKS[verdict].symbol} {verdict.value}" in html
    assert LOOKS[verdict].zh in badge(verdict, "zh")


def test_no_two_verdicts_look_alike() -> None:
    """Unknown above all never looks like ok."""
    for attribute in ("symbol", "en", "zh"):
        assert len({getattr(look, attribute) for look in LOOKS.values()}) == len(Verdict)
    assert len({LIGHT[f"{verdict.value}-bg"] for verdict in Verdict}) == len(Verdict)


def test_what_is_no_verdict_gets_no_badge() -> None:
    """A misspelt verdict is an error, never a neutral badge."""
    with pytest.raises(ValueError, match="okay"):
        badge("okay")


def test_a_page_stands_alone() -> None:
    """No script, no address to load from, the style once although its fragments carry it too."""
    html = page("a <b> title", embed(Markup("<p>one</p>")) + embed(Markup("<p>two</p>")))
    assert "<title>a &lt;b&gt; title</title>" in html
    assert html.count("<style>") == 1
    assert "<p>one</p>" in html
    assert not re.search(r"<script|<link|@import|url\(|https?:", html)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_a_fragment_carries_its_style_and_escapes_plain_text() -> None:
    """A notebook output has no page around it."""
    assert embed(Markup("<p>x</p>")).startswith(STYLE_TAG)
    assert "&lt;img" in embed("<img src=x>")


def test_plain_makes_hidden_characters_visible() -> None:
    """Terminal escapes, right-to-left overrides and lone surrogates cannot act; lines and Chinese stay."""
    assert plain("a\x1b[31mb\u202ec\ud800") == r"a\x1b[31mb\u202ec\ud800"
    assert plain("一\n\t二") == "一\n\t二"


def test_plain_says_how_much_it_left_out() -> None:
    """A cut is never silent."""
    assert plain("abcdef", 4) == "abcd\n[2 more characters]"


def test_prose_shows_backticks_as_code() -> None:
    """Pairs only, and what stands in them is escaped."""
    assert prose("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert prose("a ` b <") == "a ` b &lt;"
