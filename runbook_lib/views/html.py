"""From pieces to HTML: the template environment, whole pages, fragments for notebooks, verdict badges."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from runbook_lib.model import Risk, Verdict
from runbook_lib.views.style import LOOKS, RISK_COLOURS, STYLE_TAG, Language

# Evidence longer than this is cut with a note; the whole of it stands in the run's events.
TEXT_LIMIT = 4000


def plain(text: object, limit: int = TEXT_LIMIT) -> str:
    """Make text of unknown origin safe to look at: control and direction characters become visible escapes."""
    string = str(text)
    more = len(string) - limit
    shown = "".join(_visible(char) for char in string[:limit])
    return f"{shown}\n[{more} more characters]" if more > 0 else shown


def _visible(char: str) -> str:
    # Cc: terminal escapes. Cf: right-to-left overrides and zero-width characters that make text lie.
    # Cs: lone surrogates, which cannot be written as UTF-8.
    if char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"}:
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"  # noqa: PLR2004 - one byte


def badge(verdict: Verdict | str, language: Language = "en") -> Markup:
    """Return a verdict as colour, symbol and word together. Raises ValueError for what is no verdict."""
    verdict = Verdict(verdict)
    look = LOOKS[verdict]
    return Markup('<span class="badge v-{}">{} {}</span>').format(verdict.value, look.symbol, look.word(language))


def risk_badge(risk: Risk | str) -> Markup:
    """Return a change's risk as a badge."""
    risk = Risk(risk)
    return Markup('<span class="badge v-{}">{}</span>').format(RISK_COLOURS[risk], risk.value)


def prose(text: object) -> Markup:
    """Return text of the catalogue, with its `code` in backticks as code."""
    parts = plain(text).split("`")
    if len(parts) % 2 == 0:  # an odd number of backticks is no pair: leave them all as they are
        return escape("`".join(parts))
    return Markup().join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "prose": prose}
    environment.globals |= {"badge": badge, "risk_badge": risk_badge}
    return environment


_ENVIRONMENT = _environment()


def render(template: str, **values: Any) -> Markup:  # noqa: ANN401 - whatever the template needs
    """Render a template of this folder. A name that the template misses raises jinja2.UndefinedError."""
    return Markup(_ENVIRONMENT.get_template(template).render(**values))  # noqa: S704 - the environment escapes


def compile_templates() -> None:
    """Compile every template now, so that forks of this process have them."""
    for name in _ENVIRONMENT.list_templates(extensions=["j2"]):
        _ENVIRONMENT.get_template(name)


def embed(body: Markup | str) -> str:
    """Return a fragment with its own style, for a notebook output. A plain str is escaped, Markup is kept."""
    return f'{STYLE_TAG}<div class="rb">\n{escape(body)}</div>\n'


def inner(fragment: str) -> Markup:
    """Return one of our own fragments without its style, to be put into a page that has the style once."""
    return Markup(fragment.replace(STYLE_TAG, ""))  # noqa: S704 - fragments come from our own templates only


def page(title: str, body: Markup | str, language: Language = "en") -> str:
    """Return one self-contained HTML page. `body` is our own markup; a plain str counts as markup here too."""
    return render("page.html.j2", title=title, body=inner(str(body)), style=Markup(STYLE_TAG), language=language)  # noqa: S704
