"""What is to be done with a request that no node can answer, and with what.

Knows policies and errors. Must not know how a handler is run, nor how the loss was found out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

from rqproc.calls.call import Call
from rqproc.errors import ConfigError, NoLiveNode, OwnerLost, RedisUnavailable
from rqproc.ground import MACHINE, Ground
from rqproc.model import OnLost, Request

WISHES = get_args(OnLost)


class Servable(Protocol):
    """A resource whose handler this process could run itself; see ``app.Resource``."""

    @property
    def handler(self) -> Callable[..., Any]: ...
    @property
    def ttl_s(self) -> float: ...
    @property
    def timeout_s(self) -> float | None: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def on_lost(self) -> OnLost | None: ...
    @property
    def near(self) -> bool | None: ...


class Declaring(Protocol):
    """What has resources; see ``app.App``."""

    @property
    def resources(self) -> Mapping[str, Servable]: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """A request for this process itself, whose caller waits until ``deadline``.

    Attributes:
        timeout_s: what the caller allowed in all.
        queues: it waits for a free place rather than be refused: it is one of many.
        ground: by whose clock the deadline is meant.
    """

    request: Request
    resource: Servable
    deadline: float
    timeout_s: float
    namespace: str
    queues: bool = False
    ground: Ground = MACHINE


@dataclass(frozen=True, slots=True)
class Fallback:
    """What a client does where no node can answer, and with which handlers."""

    on_lost: OnLost = "wait"
    resources: Mapping[str, Servable] = field(default_factory=dict)

    @classmethod
    def of(cls, on_lost: OnLost, app: Declaring | Mapping[str, Servable] | None) -> Fallback:
        """Raises: ConfigError."""
        found: Any = {} if app is None else getattr(app, "resources", app)
        if not isinstance(found, Mapping):
            raise ConfigError(f"app={app!r} is neither an App nor a mapping of names to resources")
        return cls(check_on_lost(on_lost), found)

    def choose(self, resource: str, on_lost: OnLost | None) -> OnLost:
        """Return what a request wants: its own word, else its resource's, else the client's.

        Raises:
            ConfigError: unknown, or "local" without the handler.
        """
        declared = self.resources.get(resource)
        chosen = check_on_lost(on_lost or (declared and declared.on_lost) or self.on_lost)
        if chosen == "local" and declared is None:
            raise ConfigError(
                f"on_lost='local' needs the handler of {resource!r} in this process: give the app "
                "that declares it, Client(app=...)"
            )
        return chosen

    def errands(
        self, call: Call, namespace: str, *, ground: Ground = MACHINE
    ) -> list[tuple[int, Errand]]:
        """Return what this process is to do itself, by place: what the cluster could not answer.

        Never what it did answer: a handler's own error is one, too many dead nodes are another.
        """
        lost = [
            place
            for place in range(len(call.ids))
            if isinstance(call.outcome(place, namespace), NoLiveNode | OwnerLost | RedisUnavailable)
        ]
        return [
            (
                place,
                Errand(
                    Request(
                        call.resource, call.ids[place], tuple(call.args), dict(call.kwargs or {})
                    ),
                    self.resources[call.resource],
                    call.deadline,
                    call.timeout_s,
                    namespace,
                    queues=len(lost) > 1,
                    ground=ground,
                ),
            )
            for place in lost
        ]


def check_on_lost(on_lost: OnLost) -> OnLost:
    """Return a policy unchanged.

    Raises:
        ConfigError: none of those there are.
    """
    if on_lost in WISHES:
        return on_lost
    raise ConfigError(f"invalid on_lost {on_lost!r}: one of {', '.join(WISHES)}")
