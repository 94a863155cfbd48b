"""``rqproc.request``: one call for those who want no client of their own.

It is also what an RQ job on the ingress queue names. If a stock ``rq worker`` picks that up, this
function runs there as a client of the server that the job came from: the answer is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rqproc.client import Client
from rqproc.ids import Id
from rqproc.model import DEFAULT_RESOURCE, OnLost
from rqproc.protocol.keys import namespace_of_ingress


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
    return _client().request(
        id, resource, args=args, kwargs=kwargs, timeout=timeout, on_lost=on_lost
    )


def _client() -> Client:
    job = _rq_job()
    if job is None:
        return _shared()
    return Client(job.connection, namespace=namespace_of_ingress(job.origin))


def _rq_job() -> Any:
    """The RQ job that this process is in, None outside of a worker."""
    if "rq.job" not in sys.modules:
        return None
    from rq import get_current_job

    return get_current_job()


@cache
def _shared() -> Client:
    return Client()
