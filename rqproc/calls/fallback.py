"""What is to be done with a request that no node can answer, and with what.

Knows policies and errors. Must not know how a handler is run, nor how the loss was found out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from rqproc.calls.call import Call, Raw
from rqproc.errors import ConfigError, NoLiveNode, OwnerLost, RedisUnavailable
from rqproc.ids import address
from rqproc.model import OnLost
from rqproc.protocol import answer_codec
from rqproc.resource import Declaring, ResourceSpec

POLICIES = get_args(OnLost)


@dataclass(frozen=True, slots=True)
class FallbackCall:
    """What this process is to do itself of a call.

    Attributes:
        resource: has the handler.
        call: asks for the ids that the cluster could not answer, under the resource's unique name:
            apps, and clients of several clusters, may have resources of the same name.
    """

    resource: ResourceSpec
    call: Call
    _lost: Call
    _places: Sequence[int]

    def take_over(self) -> None:
        """Give the call what has come of it; what has no answer was too late."""
        self._lost.outage = None
        for place, answer in zip(self._places, self.call.answers, strict=True):
            self._lost.answers[place] = _made_here(answer)


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
        if chosen == "local" and declared is not None and declared.idle_s is not None:
            if "local" in (on_lost, declared.on_lost):
                raise ConfigError(
                    f"on_lost='local' is not for {resource!r}: a stateful id has one object, which "
                    "may live on a node that is only out of sight"
                )
            return "wait"
        if chosen == "local" and declared is None:
            raise ConfigError(
                f"on_lost='local' needs the handler of {resource!r} in this process: give the app "
                "that declares it, Client(app=...)"
            )
        return chosen

    def fallback_call(self, call: Call, namespace: str) -> FallbackCall | None:
        """Return what this process is to do itself: what the cluster could not answer.

        Never what it did answer: a handler's own error is one, too many dead nodes are another.
        """
        places = [
            place
            for place in range(len(call.ids))
            if isinstance(call.outcome(place, namespace), NoLiveNode | OwnerLost | RedisUnavailable)
        ]
        if not places:
            return None
        resource = self.resources[call.resource]
        name, ids = resource.unique_name, [call.ids[place] for place in places]
        own = Call(
            call.kind, name, ids, [address(name, id) for id in ids], call.timeout_s, call.deadline,
            args=call.args, kwargs=call.kwargs,
        )  # fmt: skip
        own.trace = call.trace
        return FallbackCall(resource, own, call, places)


def _made_here(answer: Raw | None) -> Raw | None:
    """Return an answer of this process as its caller sees it: nothing is kept, nor has a token."""
    if isinstance(answer, bytes):
        answer = answer_codec.decode_answer(answer)
    if isinstance(answer, answer_codec.Answer) and answer.report is None:
        return answer._replace(source="local", age_s=0.0, expires_in_s=0.0, token=0)
    return answer


def check_on_lost(on_lost: OnLost) -> OnLost:
    """Return a policy unchanged.

    Raises:
        ConfigError: none of those there are.
    """
    if on_lost in POLICIES:
        return on_lost
    raise ConfigError(f"invalid on_lost {on_lost!r}: one of {', '.join(POLICIES)}")
