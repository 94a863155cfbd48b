"""The default resource: what a cluster serves before anyone has written a handler."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from rqproc.app import App, Resource
from rqproc.context import current
from rqproc.model import DEFAULT_RESOURCE
from rqproc.placement import Id

TTL_S = 5.0


def with_demo(app: App | None) -> Mapping[str, Resource[..., Any]]:
    """Return what a node of this app serves: its resources, and the default one."""
    resources = dict(app.resources) if app else {}
    for name, resource in _seed().resources.items():
        resources.setdefault(name, resource)
    return resources


def _seed() -> App:
    app = App()

    @app.resource(ttl=TTL_S, name=DEFAULT_RESOURCE)
    def demo(id: Id) -> dict[str, Any]:
        return {"value": random.randint(1, 1000), "node": current().node}  # noqa: S311

    return app
