"""Secrets are taken out of everything that is recorded, in each form in which programs print them."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

from pydantic import BaseModel

from runbook_lib.errors import UsageError
from runbook_lib.model import to_json
from runbook_lib.params.secrets import Reference, SecretValue, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runbook_lib.params import Params

MASK = "***"
# Shorter secrets occur by chance in harmless text; their base64 forms (10 characters at length 8) do not.
MIN_SECRET_CHARS = 8
# A line of a multi-line secret (a PEM key) is a secret too, unless it is as short as an ordinary word.
_MIN_LINE_CHARS = 16


class _Needle(NamedTuple):
    """A form of a secret; `before` and `after` are neighbours that hold some of its bits (base64)."""

    text: str
    before: int = 0
    after: int = 0


class Redactor:
    """Replaces every known form of the given secrets by `***`.

    Raises UsageError for a secret that is too short to be told apart from harmless text.
    """

    def __init__(self, secrets: Iterable[SecretValue] = ()) -> None:
        self._needles: list[_Needle] = []
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: SecretValue) -> None:
        """Mask this one too from now on. Raises UsageError for a secret that is too short."""
        value = secret.reveal()
        if len(value) < MIN_SECRET_CHARS:
            raise UsageError(
                f"a secret has {len(value)} characters, expected at least {MIN_SECRET_CHARS}: a shorter one occurs "
                "by chance in harmless text, so it cannot be kept out of the record without spoiling it",
                next_command="use a longer secret where the params file refers to it",
            )
        self._needles = sorted({*self._needles, *_forms(value)})

    def text(self, text: str) -> str:
        """Return `text` with all secrets masked; overlapping ones become one mask."""
        spans = sorted(span for needle in self._needles for span in _occurrences(text, needle))
        if not spans:
            return text
        parts: list[str] = []
        start, end = spans[0]
        position = 0
        for next_start, next_end in spans[1:]:
            if next_start <= end:
                end = max(end, next_end)
                continue
            parts += [text[position:start], MASK]
            position, start, end = end, next_start, next_end
        parts += [text[position:start], MASK, text[end:]]
        return "".join(parts)

    def data(self, value: Any) -> Any:  # noqa: ANN401 - any JSON-like value, or what to_json can make one of
        """Return a redacted deep copy as plain JSON values; keys are redacted too."""
        if isinstance(value, Mapping):
            return {self.text(str(to_json(key))): self.data(item) for key, item in value.items()}
        if isinstance(value, str | bytes | bytearray | SecretValue | int | float | None):
            return self._scalar(value)
        if isinstance(value, Sequence | AbstractSet):
            return [self.data(item) for item in value]
        return self.data(to_json(value))

    def mask(self, error: BaseException) -> None:
        """Mask in place what an error and its causes say: a notebook shows all of them."""
        seen: set[int] = set()
        each: BaseException | None = error
        while each is not None and id(each) not in seen:
            seen.add(id(each))
            each.args = tuple(self.data(arg) if isinstance(arg, str | list) else arg for arg in each.args)
            for name, value in list(vars(each).items()):
                if isinstance(value, str | list):
                    setattr(each, name, self.data(value))
            each = each.__cause__ or each.__context__

    def _scalar(self, value: str | bytes | bytearray | SecretValue | float | None) -> str | float | None:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, SecretValue):
            return MASK
        if isinstance(value, bytes | bytearray):
            return self.text(bytes(value).decode("utf-8", "backslashreplace"))
        # a secret of digits is a secret also where it is stored as a number
        masked = self.text(str(value))
        return masked if isinstance(value, str) or masked != str(value) else value


def redactor_of(params: Params, *, strict: bool = True) -> Redactor:
    """Return a redactor that knows every secret that the params refer to.

    Raises UsageError for a secret that is too short and, when strict, for one that is not there. A reader of records
    is not strict: what is not there here cannot be in what it prints.
    """
    redactor = Redactor()
    for value in _strings(params):
        if isinstance(value, Reference):
            try:
                secret = resolve(value)
            except UsageError:
                if strict:
                    raise
                continue
            redactor.learn(secret)
    return redactor


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _strings(getattr(value, name))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _occurrences(text: str, needle: _Needle) -> Iterator[tuple[int, int]]:
    start = text.find(needle.text)
    while start >= 0:
        end = start + len(needle.text)
        yield max(0, start - needle.before), min(len(text), end + needle.after)
        start = text.find(needle.text, start + 1)


def _forms(secret: str) -> set[_Needle]:
    raw = {secret, *(line.strip() for line in secret.splitlines() if len(line.strip()) >= _MIN_LINE_CHARS)}
    forms: set[_Needle] = set()
    for value in raw:
        forms |= {_Needle(form) for form in _escaped(value)}
        forms |= set(_base64(value.encode()))
    return {form for form in forms if len(form.text) >= MIN_SECRET_CHARS}


def _escaped(value: str) -> set[str]:
    """Return the text forms: JSON (also JSON within JSON), Python, URL, shell and HTML."""
    json_forms = {json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    nested = {json.dumps(form, ensure_ascii=False)[1:-1] for form in json_forms}
    url = {quote(value, safe=""), quote(value), quote_plus(value)}
    url |= {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in url}
    quoted = shlex.quote(value)
    shell = {
        quoted[1:-1] if quoted.startswith("'") else quoted,
        value.replace("'", "'\\''"),  # the other usual way to leave single quotes
        re.sub(r'([\\"$`])', r"\\\1", value),  # within double quotes
        re.sub(r"([^\w\n@%+=:,./-])", r"\\\1", value),  # bash printf %q
    }
    return {
        value,
        repr(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        *json_forms,
        *(form.replace("/", "\\/") for form in json_forms),
        *nested,
        *url,
        *shell,
    }


def _base64(value: bytes) -> Iterator[_Needle]:
    """Yield what `value` looks like inside base64 text at each of the three offsets it can have there."""
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + value).decode()
        # The characters that hold bits of the bytes before or after differ from text to text: not part of the
        # needle, but masked with it, since they hold bits of the secret as well.
        first = (0, 2, 3)[offset]
        last, mixed = divmod((offset + len(value)) * 8, 6)
        needle = encoded[first:last]
        for form in {needle, needle.translate(str.maketrans("+/", "-_"))}:
            yield _Needle(form, before=1 if offset else 0, after=1 if mixed else 0)
