"""What a stock RQ worker does with a job of ours: it acts as a client, so the answer is the same.

Knows how a job is found that runs in this process. Must not know what is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from rqproc.client import Client
from rqproc.context import ASKING
from rqproc.ids import Id
from rqproc.protocol.keys import namespace_of_ingress
from rqproc.resource import ResourceSpec


def client_for(target: object) -> Client | None:
    """Return a client of the server that a job came from, where a stock worker runs ``target``, a
    function or a resource, as that very job; None elsewhere.
    """
    if "rq.job" not in sys.modules or ASKING.get() is not None:
        return None  # no RQ here; or a handler, which calls what it calls
    from rq import get_current_job

    job = get_current_job()
    if job is None or target not in (job.func, getattr(job.func, "__self__", None)):
        return None
    return Client(job.connection, namespace=namespace_of_ingress(job.origin))


def requester(resource: ResourceSpec) -> Callable[..., Any] | None:
    """Return what is called in a handler's place where a stock worker runs a resource as a job;
    None elsewhere.
    """
    client = client_for(resource)
    return partial(_request, client, resource) if client else None


def _request(client: Client, resource: ResourceSpec, /, id: Id, *args: Any, **kwargs: Any) -> Any:
    name, args = resource.asked(args)
    return client.request(id, name, args=args, kwargs=kwargs)
