"""What a call or a job asks for: by its id alone, or by the data of its job.

Knows the forms of ids and the codec. Must not know what becomes of it. Whoever can write to Redis
may have put anything there: what is read is checked against the address under which it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rqproc.ids import address
from rqproc.node.runs import Taken
from rqproc.protocol import codec
from rqproc.resource import ResourceSpec

CALL = re.compile(rb"r[0-9A-Fa-f]+-([caie])[0-9A-Fa-f_]+-([0-9]+-.+)", re.DOTALL)
"""Id of a call: its kind and its address; see functions/keys.lua."""

GROUP = re.compile(rb"r[0-9A-Fa-f]+-g[0-9A-Fa-f]+")
"""Id of a group of calls."""

KNOWN_CALLS = 4096


class Reader:
    """Reads what is asked for; what comes again and again, as calls without arguments do, once.

    Args:
        functions: see ``codec.decode_call``.
    """

    def __init__(self, functions: Mapping[str, str]) -> None:
        self._functions = functions
        self._known: dict[bytes, tuple[bytes, codec.DecodedCall]] = {}

    def read(self, taken: Taken, data: bytes) -> codec.DecodedCall:
        """Read a call without arguments by its address, all else by the data of its job.

        Raises:
            codec.Unreadable: it cannot be read, or asks for another id than it is addressed to.
        """
        form = CALL.fullmatch(taken.id)
        if form is not None and form[1] == b"c":
            return self._plain(taken.key)
        known = self._known.get(data)
        if known is not None and known[0] == taken.key:
            return known[1]
        call = codec.decode_call(data, functions=self._functions)
        if address(call.request.resource, call.request.id) != taken.address:
            raise codec.Unreadable("the job is addressed to another id than the one it asks for")
        if not (call.request.args or call.request.kwargs or call.trace):  # none comes twice
            self._remember(data, taken.key, call)
        return call

    def plain_data(self, key: bytes) -> bytes:
        """Return the data of the job that a call of a group becomes; empty where it asks for
        nothing, which is refused when it is read.
        """
        try:
            return codec.encode_request(self._plain(key).request)
        except codec.Unreadable:
            return b""

    def _plain(self, key: bytes) -> codec.DecodedCall:
        known = self._known.get(key)
        if known is not None:
            return known[1]
        call = codec.call_at(key.decode(errors="replace"))
        self._remember(key, key, call)
        return call

    def _remember(self, text: bytes, key: bytes, call: codec.DecodedCall) -> None:
        if len(self._known) >= KNOWN_CALLS:
            self._known.clear()
        self._known[text] = (key, call)


def functions(resources: Mapping[str, ResourceSpec]) -> dict[str, str]:
    """Return the exact names by which jobs may call resources: their own, and their handlers'."""
    names = {resource.path: name for name, resource in resources.items()}
    return names | {name: name for name in resources}
