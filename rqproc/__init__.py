"""rqproc: every id has one process in the cluster.

Reading order: ``client.Client.request`` -> ``calls.threads`` -> ``protocol/functions/routing.lua``
-> ``node.worker``, ``node.session``, ``node.intake`` -> an entry in ``node.cache``, or a claim
(``running.lua``), ``node.dispatcher``, a lane and the handler -> ``answering.lua`` ->
``calls.multiplexer``.

Names are loaded when they are first used, so that a short command does not pay for all of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rqproc import errors as errors
    from rqproc import tracing as tracing
    from rqproc.aio import AsyncClient as AsyncClient
    from rqproc.app import App as App
    from rqproc.client import Client as Client
    from rqproc.context import current as current
    from rqproc.declared import Resource as Resource
    from rqproc.default import request as request
    from rqproc.model import Partial as Partial
    from rqproc.model import Reply as Reply
    from rqproc.objects import asave as asave
    from rqproc.objects import save as save
    from rqproc.policy import Cached as Cached
    from rqproc.stateful import Stateful as Stateful

__version__ = "0.1.0"

_HOMES = {
    "App": "rqproc.app",
    "AsyncClient": "rqproc.aio",
    "Cached": "rqproc.policy",
    "Client": "rqproc.client",
    "Partial": "rqproc.model",
    "Reply": "rqproc.model",
    "Resource": "rqproc.declared",
    "Stateful": "rqproc.stateful",
    "asave": "rqproc.objects",
    "current": "rqproc.context",
    "request": "rqproc.default",
    "save": "rqproc.objects",
}

__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "App",
    "Client",
    "AsyncClient",
    "Reply",
    "Partial",
    "Resource",
    "Stateful",
    "Cached",
    "current",
    "save",
    "asave",
    "errors",
    "request",
    "tracing",
]


def __getattr__(name: str) -> Any:
    if name in ("errors", "tracing"):
        return import_module(f"rqproc.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rqproc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
