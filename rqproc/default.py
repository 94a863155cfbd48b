"""``rqproc.request``: one call for those who want no client of their own.

It is also what an RQ job on the ingress queue names. If a stock ``rq worker`` picks that up, this
function runs there as a client of the server that the job came from: the answer is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rqproc.client import Client
from rqproc.ids import Id
from rqproc.model import DEFAULT_RESOURCE, OnLost
from rqproc.runtime import Once
from rqproc.stock import client_for


def request(
    id: Id,
    resource: str = DEFAULT_RESOURCE,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    on_lost: OnLost | None = None,
) -> Any:
    """Return the value of an id, asked with the default client.

    That one has no app: ``on_lost="local"`` is for clients of your own.

    Raises:
        as ``Client.request``.
    """
    client = client_for(request) or _shared.made or _shared()
    return client.request(id, resource, args=args, kwargs=kwargs, timeout=timeout, on_lost=on_lost)


# RQ names a function by its module: whoever enqueues this one writes the name that nodes know.
request.__module__ = "rqproc"

_shared = Once(Client)
