"""Requests and results as RQ jobs carry them: bytes in, values out, and back.

Knows the shapes of RQ's job data and result entries, JSON, and the one pickle that it reads. Must
not know connections, functions or handlers.

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
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from rqproc.errors import ConfigError, InvalidId, PayloadTooLarge
from rqproc.ids import Id, canonical, check_resource, parse_address
from rqproc.ids import address as address_of
from rqproc.model import DEFAULT_RESOURCE, Request
from rqproc.protocol.pickles import PROTOCOL, JobUnpickler, NamedResource, names_a_resource
from rqproc.protocol.pickles import Unreadable as Unreadable
from rqproc.tracing import Carrier, accepted

MAX_ARGUMENT_BYTES = 64 * 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_DEPTH = 200
MAX_DIGITS = 4300
"""Of an integer: what Python reads unless it is told otherwise."""
MAX_BITS = int(MAX_DIGITS * 3.3219280948873623)
MAX_TRACEBACK_CHARS = 32 * 1024

REQUEST = "rqproc.request"
REQUEST_MANY = "rqproc.request_many"
INVALIDATE = "rqproc.invalidate"
REFRESH = "rqproc.refresh"
SET = "rqproc.set"
INVALIDATE_ALL = "rqproc.invalidate_all"
INVALIDATE_NAMESPACE = "rqproc.invalidate_namespace"
EXPLAIN = "rqproc.explain"

_ON_REQUEST = (
    REQUEST, INVALIDATE, REFRESH, SET, INVALIDATE_ALL, INVALIDATE_NAMESPACE, EXPLAIN,
)  # fmt: skip
"""What is asked for by clients alone, but for the first: no job of an application may."""

Serializer = Literal["json", "pickle"]

_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class UnservableValue(TypeError):
    """A handler's value cannot be carried to its caller; the message says why."""


@dataclass(frozen=True, slots=True)
class DecodedCall:
    """What a job asks for. ``trace``: the context of its caller's span, None where it has none."""

    function: str
    request: Request
    serializer: Serializer
    trace: Carrier | None = None


def utc() -> str:
    """Return the present moment as RQ writes times."""
    now = time.time()
    return f"{_utc_second(int(now))}.{int(now % 1 * 1e6):06d}Z"


@lru_cache(maxsize=2)
def _utc_second(second: int) -> str:
    """strftime takes longer than all else that a hit needs from Python's clock: once a second."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- requests ---------------------------------------------------------------------------------


def encode_request(
    request: Request, *, function: str = REQUEST, trace: Carrier | None = None
) -> bytes:
    """Return the ``data`` of the RQ job that carries a request, in RQ's JSON serializer.

    ``trace``: the context of its caller's span.

    Raises:
        ConfigError: the arguments are not JSON.
        PayloadTooLarge: over 64 KiB.
    """
    options: dict[str, Any] = {"resource": request.resource}
    if request.args:
        options["args"] = request.args
    if request.kwargs:
        options["kwargs"] = dict(request.kwargs)
    if trace:
        options["trace"] = dict(trace)
    try:
        for argument in (*request.args, *request.kwargs.values()):
            _check_readable(argument)
        text = _to_json([function, None, [request.id], options])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the arguments of {request.resource} are not JSON: {error}") from error
    data = text.encode()
    if len(data) > MAX_ARGUMENT_BYTES:
        raise PayloadTooLarge(len(data), MAX_ARGUMENT_BYTES)
    return data


def encode_job(request: Request) -> bytes:
    """Return the ``data`` of a job that is looked up by RQ's rules, in RQ's default serializer.

    Raises:
        ConfigError: its arguments are not JSON. PayloadTooLarge: they are over the limit.
    """
    if request.args or request.kwargs:
        function, instance, args, kwargs = json.loads(encode_request(request))
    else:
        function, instance, args, kwargs = (
            REQUEST,
            None,
            [request.id],
            {"resource": request.resource},
        )
    data = pickle.dumps((function, instance, tuple(args), kwargs), protocol=PROTOCOL)
    if len(data) > MAX_ARGUMENT_BYTES:
        raise PayloadTooLarge(len(data), MAX_ARGUMENT_BYTES)
    return data


@lru_cache(maxsize=64)
def encode_many(resource: str) -> bytes:
    """Return the ``data`` of a job that carries many calls: what each asks for is its address."""
    return _to_json([REQUEST_MANY, None, [], {"resource": resource}]).encode()


def decode_call(data: bytes, *, functions: Mapping[str, str]) -> DecodedCall:
    """Read what a job asks for, whoever wrote it.

    ``functions`` maps the exact names by which an app's resources may be called to the resources.
    ``rqproc.request`` itself always may.

    Raises:
        Unreadable: not readable, too large, or it names anything else.
    """
    plain, serializer = _unpack(data, functions)
    if not isinstance(plain, list | tuple) or len(plain) != 4:
        raise Unreadable("the job's data is not (function, instance, args, kwargs)")
    function, instance, args, kwargs = plain
    if isinstance(instance, NamedResource) and function in ("__call__", "request"):
        function, instance = instance.path, None
    if not isinstance(function, str) or instance is not None:
        raise Unreadable("rqproc runs no methods of instances that a job brings along")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise Unreadable("the job's arguments are malformed")
    if serializer == "pickle" and names_a_resource([args, kwargs]):
        raise Unreadable("rqproc does not unpickle resources among arguments: pass plain values")
    if function in _ON_REQUEST:
        trace = accepted(kwargs.get("trace"))
        return DecodedCall(function, _explicit(list(args), dict(kwargs)), serializer, trace)
    if function not in functions:
        raise Unreadable(f"rqproc does not run {function[:200]!r}, only its app's resources")
    return DecodedCall(REQUEST, _direct(functions[function], list(args), dict(kwargs)), serializer)


def call_at(address: str) -> DecodedCall:
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
    return DecodedCall(REQUEST, Request(resource, id), "json")


def _explicit(args: list[Any], kwargs: dict[str, Any]) -> Request:
    """``rqproc.request(id, resource=..., args=..., kwargs=..., timeout=...)``"""
    if "id" in kwargs:
        args.insert(0, kwargs.pop("id"))
    resource = kwargs.pop("resource", DEFAULT_RESOURCE)
    handler_args = kwargs.pop("args", ())
    handler_kwargs = kwargs.pop("kwargs", {})
    kwargs.pop("trace", None)
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


def _unpack(data: bytes, functions: Collection[str]) -> tuple[Any, Serializer]:
    raw = _inflate(data) if data[:1] == b"\x78" else data
    if len(raw) > MAX_ARGUMENT_BYTES:
        raise Unreadable(f"the job's data is over {MAX_ARGUMENT_BYTES} bytes")
    pickled = raw[:1] == b"\x80"
    try:
        plain = JobUnpickler(io.BytesIO(raw), functions).load() if pickled else json.loads(raw)
    except Unreadable:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise Unreadable(f"the job's data cannot be read: {type(error).__name__}") from error
    return plain, "pickle" if pickled else "json"


class PlainSerializer:
    """What RQ takes as the serializer of a job, and reads nothing but plain data."""

    def __init__(self, writes: Serializer) -> None:
        self._writes = writes

    def dumps(self, value: object) -> bytes:
        return _to_json(value).encode() if self._writes == "json" else pickle.dumps(value)

    def loads(self, data: bytes) -> Any:
        """Raises: Unreadable."""
        return _unpack(data, ())[0]


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(data, MAX_ARGUMENT_BYTES + 1)
    except zlib.error as error:
        raise Unreadable("the job's data is neither JSON, pickle nor zlib") from error
    return raw


# --- results ----------------------------------------------------------------------------------


def encode_value(value: object, what: str = "the handler's value") -> str:
    """Return a value as JSON text.

    Args:
        what: it is called, where it is refused.

    Raises:
        UnservableValue: JSON cannot carry it, whoever reads it; or it is over 1 MiB.
    """
    try:
        if isinstance(value, dict | list | tuple | int):
            _check_readable(value)
        text = _to_json(value)
    except (TypeError, ValueError) as error:
        raise UnservableValue(f"{what} is not JSON: {error}") from error
    size = len(text)  # ASCII: json escapes everything else
    if size > MAX_VALUE_BYTES:
        raise UnservableValue(f"{what} takes {size} bytes, over {MAX_VALUE_BYTES}")
    return text


def _check_readable(value: object) -> None:
    """Refuse what this process can write and another may not read, or reads as something else.

    Raises:
        ValueError: the message says what it has in it.
    """
    left: list[tuple[object, int]] = [(value, 1)]
    while left:
        found, depth = left.pop()
        if isinstance(found, int):
            if found.bit_length() > MAX_BITS:
                raise ValueError(f"it has an integer over {MAX_DIGITS} digits")
            continue
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested over {MAX_DEPTH} deep")
        parts: Iterable[object] = ()
        if isinstance(found, dict):
            _check_keys(found)
            parts = found.values()
        elif isinstance(found, list | tuple):
            parts = found
        left += [(part, depth + 1) for part in parts if isinstance(part, dict | list | tuple | int)]


def _check_keys(found: dict[Any, Any]) -> None:
    """JSON's keys are text: 1 and "1" are one."""
    if all(type(key) is str for key in found):
        return
    if len(json.loads(_to_json(dict.fromkeys(found)))) < len(found):
        raise ValueError("one dict in it has keys that JSON cannot tell apart, as 1 and '1'")


def return_value(text: str, serializer: Serializer) -> str:
    """Return JSON text as RQ keeps a return value, in the serializer that its job came in."""
    plain = (
        text.encode() if serializer == "json" else pickle.dumps(json.loads(text), protocol=PROTOCOL)
    )
    return b64encode(plain).decode()


def exc_string(text: str) -> str:
    """Return a traceback as RQ keeps one: its end, where it is very long."""
    kept = text[-MAX_TRACEBACK_CHARS:]
    return b64encode(zlib.compress(kept.encode(errors="replace"))).decode()
