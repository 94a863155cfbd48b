"""Which member owns an id: a pure function of the id and the sorted member list.

Knows ids, slots and member names. Must not know Redis, RQ, clocks or the environment: the same
arithmetic stands in ``protocol/functions/placement.lua``, and the property tests hold the two
against each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

from rqproc.errors import ConfigError, InvalidId

Id = int | str

SLOT_BITS = 53
"""Slots fit a double's mantissa, the only number that Lua in Redis has."""

MAX_ID_CHARS = 200
_LEAST, _MOST = -(10 ** (MAX_ID_CHARS - 1)), 10**MAX_ID_CHARS

_RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_OTHER = re.compile(rb"[^A-Za-z0-9]")
_QUOTED = re.compile(rb"_([0-9a-f]{2})")
_DECIMAL = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)


def canonical(value: object) -> Id:
    """Return the one spelling of an id: an ``int`` for a decimal string, else the string itself.

    ``"7"`` and ``7`` are the same id; ``"007"`` and ``"+7"`` are strings of their own. What is of a
    subclass of int or str, as a member of an ``IntEnum``, is the plain value that it equals.

    Raises:
        InvalidId: not an int or str, empty, over 200 characters, with control characters, or text
            that UTF-8 cannot carry.
    """
    if type(value) is int and _LEAST < value < _MOST:
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidId(value, f"an id is an int or a str, not {type(value).__name__}")
    if isinstance(value, int):
        if not _LEAST < value < _MOST:
            raise InvalidId("(a very large integer)", f"an id has at most {MAX_ID_CHARS} digits")
        return int.__int__(value)  # of a subclass, as an enum's member, the plain value
    value = str.__str__(value)
    if not 1 <= len(value) <= MAX_ID_CHARS:
        raise InvalidId(value, f"an id has 1 to {MAX_ID_CHARS} characters, not {len(value)}")
    if not value.isprintable():  # so are the characters that we refuse, and some that we do not
        _check_characters(value)
    return int(value) if _DECIMAL.fullmatch(value) else value


def _check_characters(text: str) -> None:
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
        raise InvalidId(text, "an id has no control characters")
    if any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise InvalidId(text, "an id is valid Unicode text, without lone surrogates")


def check_resource(name: object) -> str:
    """Return a resource's name, as a plain str.

    Raises:
        ConfigError: not a letter or ``_``, then up to 99 of letters, digits, ``_``, ``.``, ``-``.
    """
    if isinstance(name, str) and _RESOURCE.fullmatch(name):
        return str.__str__(name)
    shown = repr(name[:80]) if isinstance(name, str) else f"of type {type(name).__name__}"
    raise ConfigError(f"invalid resource name {shown}: letters, digits, '_', '.', '-'")


def slot(id: Id) -> int:
    """Return the number that a canonical id stands for, in ``0 .. 2**53 - 1``.

    An integer in that range is its own slot, so ids 1..6 on three nodes spread as anyone would
    compute by hand. Anything else is digested (BLAKE2b, RFC 7693, cut to 53 bits).
    """
    if isinstance(id, int) and 0 <= id < 1 << SLOT_BITS:
        return id
    digest = blake2b(str(id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SLOT_BITS)


def owner(slot: int, members: Sequence[str]) -> str | None:
    """Return the member that owns a slot: ``members[slot % len(members)]``, None without members.

    ``members`` is sorted by the bytes of the names, as a Redis sorted set of equal scores is.
    """
    return members[slot % len(members)] if members else None


def address(resource: str, id: Id) -> str:
    """Return the text under which Redis knows a (resource, id): ``"42-price-42"``.

    The slot leads, so that a function can find the owner without hashing. All is made of letters,
    digits and ``_``, of which the ids of RQ's jobs may be made: other bytes stand as ``_`` and two
    hexadecimal digits, as in "percent-encoding" (RFC 3986).
    """
    return f"{slot(id)}-{quote(resource)}-{quote(str(id))}"


def parse_address(text: str) -> tuple[int, str, Id]:
    """Return ``(slot, resource, id)`` of an address.

    Raises:
        ValueError: it is none. InvalidId: its id is none.
    """
    number, resource, id = text.split("-")
    return int(number), unquote(resource), canonical(unquote(id))


def resource_of(address: bytes) -> str:
    """Return the name of an address's resource; "" where it has none, for anyone may have made the
    address up.
    """
    _, _, rest = address.partition(b"-")
    try:
        return unquote(rest.partition(b"-")[0].decode())
    except ValueError:
        return ""


def is_address(raw: bytes) -> bool:
    """Whether ``address`` makes such a text, of some id."""
    try:
        parse_address(raw.decode())
    except (ValueError, InvalidId):
        return False
    return True


def quote(text: str) -> str:
    """Return text as letters, digits and ``_XX`` for all other bytes of its UTF-8."""
    if text.isalnum() and text.isascii():
        return text
    return _OTHER.sub(lambda found: b"_%02x" % found[0][0], text.encode()).decode()


def unquote(text: str) -> str:
    """Raises: ValueError: ``quote`` returns no such text."""
    if "_" not in text:
        return text
    return _QUOTED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode()).decode()


def request_name(id: str) -> str:
    """Return the id of a call, or of a job, as errors and logs name it: without its place among
    those that were asked together, which its caller may not know.
    """
    return re.sub(r"^(r[0-9a-f]+-[a-z][0-9a-f]+)_[0-9a-f]+-", r"\1-", id)
