"""Requests and results as RQ jobs carry them: bytes in, values out, and back.

Knows the shapes of RQ's job data and result entries, JSON, and the one pickle that it reads. Must
not know connections, scripts or handlers.

Whoever can write to Redis could name any function in a job. So nothing on the wire is ever
resolved: a name is compared with a list, RQ's default pickle is read by an unpickler that refuses
every global (it decodes plain data and can run nothing), and sizes are bounded before anything is
decompressed.
"""

from __future__ import annotations

import io
import json
import pickle
import time
import traceback
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rqproc.errors import ConfigError, InvalidId, PayloadTooLarge
from rqproc.model import DEFAULT_RESOURCE, Reply, Request
from rqproc.placement import Id, canonical, check_resource, parse_address
from rqproc.placement import address as address_of

MAX_ARGUMENT_BYTES = 64 * 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_TRACEBACK_CHARS = 32 * 1024

REQUEST = "rqproc.request"
REQUEST_MANY = "rqproc.request_many"
INVALIDATE = "rqproc.invalidate"

Serializer = Literal["json", "pickle"]

_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_from_json = json.JSONDecoder().raw_decode


class Unreadable(ValueError):
    """A job's data is not a request that rqproc serves; the message says why."""


class UnservableValue(TypeError):
    """A handler's value cannot be carried to its caller; the message says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a job asks for."""

    function: str
    request: Request
    serializer: Serializer


def utc() -> str:
    """Return the present moment as RQ writes times."""
    now = time.time()
    return f"{_utc_second(int(now))}.{int(now % 1 * 1e6):06d}Z"


@lru_cache(maxsize=2)
def _utc_second(second: int) -> str:
    """strftime takes longer than all else that a hit needs from Python's clock: once a second."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- requests ---------------------------------------------------------------------------------


def encode_request(request: Request, *, function: str = REQUEST) -> bytes:
    """Return the ``data`` of the RQ job that carries a request, in RQ's JSON serializer.

    Raises:
        ConfigError: the arguments are not JSON.
        PayloadTooLarge: over 64 KiB.
    """
    options: dict[str, Any] = {"resource": request.resource}
    if request.args:
        options["args"] = request.args
    if request.kwargs:
        options["kwargs"] = dict(request.kwargs)
    try:
        text = _to_json([function, None, [request.id], options])
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the arguments of {request.resource} are not JSON: {error}") from error
    data = text.encode()
    if len(data) > MAX_ARGUMENT_BYTES:
        raise PayloadTooLarge(len(data), MAX_ARGUMENT_BYTES)
    return data


@lru_cache(maxsize=64)
def encode_many(resource: str) -> bytes:
    """Return the ``data`` of a job that carries many calls: what each asks for is its address."""
    return _to_json([REQUEST_MANY, None, [], {"resource": resource}]).encode()


def decode_call(data: bytes, *, functions: Mapping[str, str]) -> Call:
    """Read what a job asks for, whoever wrote it.

    ``functions`` maps the exact names by which an app's resources may be called to the resources.
    ``rqproc.request`` itself always may.

    Raises:
        Unreadable: not readable, too large, or it names anything else.
    """
    plain, serializer = _unpack(data)
    if not isinstance(plain, list | tuple) or len(plain) != 4:
        raise Unreadable("the job's data is not (function, instance, args, kwargs)")
    function, instance, args, kwargs = plain
    if not isinstance(function, str) or instance is not None:
        raise Unreadable("rqproc runs no methods of instances that a job brings along")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise Unreadable("the job's arguments are malformed")
    if function in (REQUEST, INVALIDATE):
        return Call(function, _explicit(list(args), dict(kwargs)), serializer)
    if function not in functions:
        raise Unreadable(f"rqproc does not run {function[:200]!r}, only its app's resources")
    return Call(REQUEST, _direct(functions[function], list(args), dict(kwargs)), serializer)


def call_at(address: str) -> Call:
    """Return what a call without arguments asks for, by its address, whoever wrote it.

    Raises:
        Unreadable: it is none, or not the one that this id has.
    """
    try:
        _, resource, id = parse_address(address)
        check_resource(resource)
    except (ValueError, ConfigError) as error:
        raise Unreadable(f"no address: {str(error)[:200]}") from error
    if address_of(resource, id) != address:
        raise Unreadable("the job is addressed to another id than the one it asks for")
    return Call(REQUEST, Request(resource, id), "json")


def _explicit(args: list[Any], kwargs: dict[str, Any]) -> Request:
    """``rqproc.request(id, resource=..., args=..., kwargs=..., timeout=...)``"""
    if "id" in kwargs:
        args.insert(0, kwargs.pop("id"))
    resource = kwargs.pop("resource", DEFAULT_RESOURCE)
    handler_args = kwargs.pop("args", ())
    handler_kwargs = kwargs.pop("kwargs", {})
    kwargs.pop("timeout", None)
    kwargs.pop("on_lost", None)  # both are for a client, which a stock worker would be
    if len(args) != 1 or kwargs:
        raise Unreadable("call it as rqproc.request(ID, resource=NAME, args=[...], kwargs={...})")
    try:
        check_resource(resource)
    except ConfigError as error:
        raise Unreadable(str(error)) from error
    if not isinstance(handler_args, list | tuple) or not isinstance(handler_kwargs, dict):
        raise Unreadable("args is a list and kwargs is a dict")
    return Request(resource, _id(args[0]), tuple(handler_args), handler_kwargs)


def _direct(resource: str, args: list[Any], kwargs: dict[str, Any]) -> Request:
    """``price(id, *args, **kwargs)``"""
    if "id" in kwargs:
        args.insert(0, kwargs.pop("id"))
    if not args:
        raise Unreadable(f"{resource} needs an id as its first argument")
    return Request(resource, _id(args[0]), tuple(args[1:]), kwargs)


def _id(value: object) -> Id:
    try:
        return canonical(value)
    except InvalidId as error:
        raise Unreadable(str(error)) from error


def _unpack(data: bytes) -> tuple[Any, Serializer]:
    raw = _inflate(data) if data[:1] == b"\x78" else data
    if len(raw) > MAX_ARGUMENT_BYTES:
        raise Unreadable(f"the job's data is over {MAX_ARGUMENT_BYTES} bytes")
    pickled = raw[:1] == b"\x80"
    try:
        plain = _PlainUnpickler(io.BytesIO(raw)).load() if pickled else json.loads(raw)
    except Unreadable:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise Unreadable(f"the job's data cannot be read: {type(error).__name__}") from error
    return plain, "pickle" if pickled else "json"


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(data, MAX_ARGUMENT_BYTES + 1)
    except zlib.error as error:
        raise Unreadable("the job's data is neither JSON, pickle nor zlib") from error
    return raw


class _PlainUnpickler(pickle._Unpickler):
    """Reads numbers, text, lists, dicts and the like; anything that would be looked up ends it.

    The one written in Python: the one in C makes room for whatever memo index a pickle names.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise Unreadable(f"rqproc does not unpickle {module}.{name}: pass plain values")

    def persistent_load(self, pid: object) -> Any:
        raise Unreadable("rqproc does not unpickle persistent ids: pass plain values")


# --- results ----------------------------------------------------------------------------------


def encode_value(value: object) -> str:
    """Return a handler's value as JSON text.

    Raises:
        UnservableValue: JSON cannot carry it, or it is over 1 MiB.
    """
    try:
        text = _to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnservableValue(f"the handler's value is not JSON: {error}") from error
    size = len(text)  # ASCII: json escapes everything else
    if size > MAX_VALUE_BYTES:
        raise UnservableValue(f"the handler's value takes {size} bytes, over {MAX_VALUE_BYTES}")
    return text


def return_value(text: str, serializer: Serializer) -> str:
    """Return JSON text as RQ keeps a return value, in the serializer that its job came in."""
    plain = text.encode() if serializer == "json" else pickle.dumps(json.loads(text))
    return b64encode(plain).decode()


def exc_string(text: str) -> str:
    """Return a traceback as RQ keeps one: its end, where it is very long."""
    kept = text[-MAX_TRACEBACK_CHARS:]
    return b64encode(zlib.compress(kept.encode(errors="replace"))).decode()


class Answer(NamedTuple):
    """One answer: either a reply's parts or a report of an error.

    Attributes:
        source: see ``model.Source``; "error" with a report.
        report: what ``errors.from_remote`` takes.
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
    return Answer(
        source.decode(),
        int(age_ms) / 1000,
        int(left_ms) / 1000,
        int(token),
        node.decode(),
        _from_json(body.decode())[0],
    )


def decode_value(rest: bytes) -> Any:
    """Read but the value of an answer that is no error."""
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
    _, *answer = _from_json(part.text.decode())[0]
    return _part(part.node.decode(), *answer)


def count_group(rest: bytes) -> int:
    """Return how many answers there are in those of a group."""
    return rest.count(b",\n") + 1


def decode_group(rest: bytes) -> list[tuple[int, Answer]]:
    """Read the answers of a group, without its id: of each its place and what it is."""
    _, _, _, _, node, body = rest.split(b" ", 5)
    name = node.decode()
    return [(place, _part(name, *answer)) for place, *answer in _from_json(body.decode())[0]]


def _part(node: str, source: str, age_ms: int, left_ms: int, token: int, value: Any) -> Answer:
    return Answer(source, age_ms / 1000, left_ms / 1000, token, node, value)


def refusal(report: bytes) -> Answer:
    """Return the answer that a function's report of a refusal stands for."""
    return Answer("error", report=json.loads(report))


def unknown_resource_report(resource: str, known: Collection[str]) -> str:
    return json.dumps({"type": "UnknownResource", "resource": resource, "known": sorted(known)})


def overdue_report(timeout_s: float, *, stuck: bool) -> str:
    return json.dumps({"type": "HandlerTimeout", "timeout_s": timeout_s, "stuck": stuck})


def told(error: BaseException) -> tuple[str, str, str]:
    """Return an error's type, its message and its traceback, as a report has them."""
    text = "".join(traceback.format_exception(error))
    try:
        reason = str(error)
    except Exception as worse:  # noqa: BLE001 - it is the handler's own code that makes the text
        reason = f"(its message raised {type(worse).__name__})"
    return type(error).__name__, reason, text


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
