"""What is published to callers: answers, and reports of errors.

Knows their text forms. Must not know connections, nor what becomes of an answer.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from rqproc.ids import Id
from rqproc.model import Reply
from rqproc.protocol.codec import MAX_TRACEBACK_CHARS

_from_json = json.JSONDecoder().raw_decode

UNREADABLE = (ValueError, RecursionError)
"""What reading JSON may raise that another process has written: digits, depth."""


class Answer(NamedTuple):
    """One answer: either a reply's parts or a report of an error.

    Attributes:
        source: see ``model.Source``; "error" with a report.
        report: what ``reports.from_remote`` takes.
    """

    source: str
    age_s: float = 0.0
    expires_in_s: float = 0.0
    token: int = 0
    node: str = ""
    value: Any = None
    report: Mapping[str, Any] | None = None

    def reply(self, id: Id) -> Reply:
        return Reply(
            id=id,
            value=self.value,
            node=self.node,
            source=self.source,  # type: ignore[arg-type]  # written by nodes alone
            age_s=self.age_s,
            expires_in_s=self.expires_in_s,
            token=self.token,
        )


def encode_answer(
    call: str, source: str, body: str, *, node: str, age_s: float = 0.0, expires_in_s: float = 0.0,
    token: int = 0,
) -> str:  # fmt: skip
    """Return what is published to a caller: ``ID SOURCE AGE_MS LEFT_MS TOKEN NODE BODY``.

    The body is the value as JSON text; or, where the source is "error", a report.
    """
    times = f"{age_s * 1000:.0f} {expires_in_s * 1000:.0f}"
    return f"{call} {source} {times} {token} {node} {body}"


def encode_hit(
    call: bytes, text: bytes, *, node: bytes, age_s: float, expires_in_s: float, token: int
) -> bytes:  # fmt: skip
    """Return what ``encode_answer`` does for a hit, from bytes: it is done for each of them."""
    times = (age_s * 1000, expires_in_s * 1000)
    return b"%b hit %.0f %.0f %d %b %b" % (call, *times, token, node, text)


def decode_answer(rest: bytes) -> Answer:
    """Read an answer without its id: ``SOURCE AGE_MS LEFT_MS TOKEN NODE BODY``."""
    source, age_ms, left_ms, token, node, body = rest.split(b" ", 5)
    if source == b"error":
        return Answer("error", token=int(token), node=node.decode(), report=json.loads(body))
    try:
        value = _from_json(body.decode())[0]
    except UNREADABLE as error:
        return unreadable(f"it cannot be read here: {error}", node)
    times = (int(age_ms) / 1000, int(left_ms) / 1000)
    return Answer(source.decode(), *times, int(token), node.decode(), value)


def unreadable(why: str, node: bytes = b"") -> Answer:
    """Return the answer that a value comes to which this process cannot read, as another could."""
    said = f"a value was made, but {why}"
    report = {"type": "HandlerFailed", "remote_type": "UnservableValue", "message": said}
    return Answer("error", node=node.decode(), report=report)


def decode_value(rest: bytes) -> Any:
    """Read but the value of an answer that is no error. Raises: one of ``UNREADABLE``."""
    return _from_json(rest.split(b" ", 5)[5].decode())[0]


def encode_part(
    place: str, source: str, text: str, *, age_s: float, expires_in_s: float, token: int
) -> str:
    """Return the answer to one call of a group, of which ``encode_group`` makes one for all."""
    return f'[{place},"{source}",{age_s * 1000:.0f},{expires_in_s * 1000:.0f},{token},{text}]'


def encode_group(group: str, node: str, parts: Iterable[str]) -> str:
    """Return what is published to a caller of calls of one group: a JSON array of their answers,
    with line ends between them, which there are none of within: so it can be taken apart unread.
    """
    return encode_answer(group, "many", "[" + ",\n".join(parts) + "]", node=node)


class Part(NamedTuple):
    """The answer to one call of a group, as it came: JSON of place, source, times, token, value."""

    node: bytes
    text: bytes

    @property
    def place(self) -> int:
        """The call's, in its group."""
        return int(self.text[1 : self.text.index(b",")])


def split_group(rest: bytes) -> list[Part]:
    """Take the answers of a group apart, without its id, and leave them unread."""
    _, _, _, _, node, body = rest.split(b" ", 5)
    return [Part(node, text) for text in body[1:-1].split(b",\n")]


def decode_part(part: Part) -> Answer:
    try:
        _, *answer = _from_json(part.text.decode())[0]
    except UNREADABLE as error:
        return unreadable(f"it cannot be read here: {error}", part.node)
    return _part(part.node.decode(), *answer)


def count_group(rest: bytes) -> int:
    """Return how many answers there are in those of a group."""
    return rest.count(b",\n") + 1


def decode_group(rest: bytes) -> list[tuple[int, Answer]]:
    """Read the answers of a group, without its id: of each its place and what it is."""
    _, _, _, _, node, body = rest.split(b" ", 5)
    name = node.decode()
    try:
        found = _from_json(body.decode())[0]
    except UNREADABLE:  # it is one of them that fails, alone
        return [(part.place, decode_part(part)) for part in split_group(rest)]
    return [(place, _part(name, *answer)) for place, *answer in found]


def _part(node: str, source: str, age_ms: int, left_ms: int, token: int, value: Any) -> Answer:
    return Answer(source, age_ms / 1000, left_ms / 1000, token, node, value)


def refusal(report: bytes) -> Answer:
    """Return the answer that a function's report of a refusal stands for."""
    return Answer("error", report=json.loads(report))


def unknown_resource_report(resource: str, known: Collection[str]) -> str:
    return json.dumps({"type": "UnknownResource", "resource": resource, "known": sorted(known)})


def overdue_report(timeout_s: float, *, stuck: bool) -> str:
    return json.dumps({"type": "HandlerTimeout", "timeout_s": timeout_s, "stuck": stuck})


def describe(error: BaseException) -> tuple[str, str, str]:
    """Return an error's type, its message and its traceback, as a report has them."""
    text = "".join(traceback.format_exception(error))
    try:
        reason = str(error)
    except Exception as worse:  # noqa: BLE001 - it is the handler's own code that makes the text
        reason = f"(its message raised {type(worse).__name__})"
    return type(error).__name__, reason, text


def kind_of(report: str) -> str:
    """Return the type of the error that a report is on: of a handler's error the handler's own."""
    found = json.loads(report)
    return str(found.get("remote_type") or found["type"])


def remembered(report: str) -> str:
    """Return the report of an error that is answered again, without another run."""
    return json.dumps({**json.loads(report), "remembered": True})


def failure_report(type: str, message: str, traceback: str = "") -> str:
    """Return the report of a handler's error; long texts are cut, since nobody reads a megabyte."""
    return json.dumps(
        {
            "type": "HandlerFailed",
            "remote_type": type,
            "message": message[:4096],
            "traceback": traceback[-MAX_TRACEBACK_CHARS:],
        }
    )
