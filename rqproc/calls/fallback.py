"""What is to be done with a request that no node can answer, and with what.

Knows policies and errors. Must not know how a handler is run, nor how the loss was found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from rqproc.calls.call import Call
from rqproc.errors import ConfigError, NoLiveNode, OwnerLost, RedisUnavailable
from rqproc.model import OnLost, Request
from rqproc.resource import Declaring, ResourceSpec
from rqproc.runtime import MACHINE, Runtime

POLICIES = get_args(OnLost)


@dataclass(frozen=True, slots=True)
class Errand:
    """A request for this process itself, whose caller waits until ``deadline``.

    Attributes:
        timeout_s: what the caller allowed in all.
        queues: it waits for a free place rather than be refused: it is one of many.
        runtime: by whose clock the deadline is meant.
    """

    request: Request
    resource: ResourceSpec
    deadline: float
    timeout_s: float
    namespace: str
    queues: bool = False
    runtime: Runtime = MACHINE


@dataclass(frozen=True, slots=True)
class Fallback:
    """What a client does where no node can answer, and with which handlers."""

    on_lost: OnLost = "wait"
    resources: Mapping[str, ResourceSpec] = field(default_factory=dict)

    @classmethod
    def of(cls, on_lost: OnLost, app: Declaring | Mapping[str, ResourceSpec] | None) -> Fallback:
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
        self, call: Call, namespace: str, *, runtime: Runtime = MACHINE
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
                    runtime=runtime,
                ),
            )
            for place in lost
        ]


def check_on_lost(on_lost: OnLost) -> OnLost:
    """Return a policy unchanged.

    Raises:
        ConfigError: none of those there are.
    """
    if on_lost in POLICIES:
        return on_lost
    raise ConfigError(f"invalid on_lost {on_lost!r}: one of {', '.join(POLICIES)}")
