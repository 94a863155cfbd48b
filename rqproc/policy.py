"""For how long what a handler gives is kept and answers requests, what is done where it fails, how
often it is run, and how many ids it is called with.

Pure. Knows seconds and exceptions; must not know handlers, entries or nodes.

The life of a value, from its run on, with all options set::

    made          refresh_ahead         ttl              + stale_ttl    + stale_on_error
     |----- hit --------|------ hit ------|---- stale ------|--- miss -----|--- miss
                        | one run makes   | one run makes   | the old one answers
                        | the next value  | the next value  | where the run fails
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

from rqproc.errors import ConfigError
from rqproc.runtime import Chance

T = TypeVar("T")

MAX_TTL_S = 86400.0
MAX_RETRIES = 100
MAX_BATCH = 10_000
LEAST_RATE, MAX_RATE = 0.001, 1e6
MAX_BATCH_WAIT_S = 60.0
LONGEST_BACKOFF_S = 60.0
"""The longest pause between two tries."""

Errors = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Cached(Generic[T]):
    """What a handler returns to say for how long this very value is kept.

    Attributes:
        value: the value.
        ttl: float, seconds from now, 0 to 86400; 0 keeps nothing. It takes the place of the
            resource's ``ttl`` and ``negative_ttl``, and is not jittered.
    """

    value: T
    ttl: float


class PolicyOptions(TypedDict, total=False):
    """What ``App.resource`` takes of a policy; all of it is off by default.

    Attributes:
        ttl_jitter: float, part of its ttl by which a value may end sooner, 0 to 1: what was made
            together does not end together.
        negative_ttl: float, seconds for which None is kept, and what is raised of ``negative``;
            without it None is kept as any value, and no error is.
        negative: classes of exceptions that are remembered, and raised again, marked.
        stale_ttl: float, seconds past its ttl for which an old value is answered at once, as
            "stale", while one run makes the next (stale-while-revalidate of RFC 5861).
        stale_on_error: float, seconds past its ttl for which the old value is answered, as
            "stale", where the run fails (stale-if-error of RFC 5861).
        refresh_ahead: float, part of the ttl after which a request has the next value made, while
            it is answered with this one.
        retries: int, how often a run that raises one of ``retry_on`` is tried again, after
            ``backoff`` seconds and up to three times the last pause each.
        retry_on: classes of exceptions; all of them if not given.
        backoff: float, seconds, 0.1 if not given.
        batch: int, the most ids that the handler is called with at once: it takes a list of them,
            and returns a dict of their values, of which an exception is that id's error.
        batch_wait_s: float, seconds that a miss waits for others to go along; it waits for none if
            not given.
        max_entries: int, values that a node keeps of this resource, 1 or more.
        max_bytes: int, memory that they take on a node, with about 250 bytes beside each.
        rate: float, runs that may begin in a second on a node, 0.001 to a million. Whoever would
            wait for longer than it has time is refused at once, as RateLimited.
        rate_per_id: float, the same of each id.
    """

    ttl_jitter: float
    negative_ttl: float
    negative: Errors
    stale_ttl: float
    stale_on_error: float
    refresh_ahead: float
    retries: int
    retry_on: Errors
    backoff: float
    batch: int
    batch_wait_s: float
    max_entries: int
    max_bytes: int
    rate: float
    rate_per_id: float


class Bounds(NamedTuple):
    """How much may be kept of some values, past which one of them goes."""

    max_entries: float = math.inf
    max_bytes: float = math.inf


UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True)
class Life:
    """Until when a value that was made is what.

    Attributes:
        first_until: until then it is a hit, and nothing else happens.
        fresh_until: until then it is a hit.
        kept_until: until then it may answer late.
    """

    first_until: float
    fresh_until: float
    kept_until: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What a resource does with its values and errors; all of it is off by default.

    Attributes:
        ttl_s: seconds that a value is kept.
        jitter: part of that, 0 to 1, by which a value may end sooner.
        negative_ttl_s: the same of None and of remembered errors; None where None is kept as any
            other value, and no error is remembered.
        negative: the exceptions that are remembered.
        stale_s: seconds past its ttl in which an old value answers at once and has a new one made:
            ``stale-while-revalidate`` of RFC 5861.
        on_error_s: seconds past its ttl in which an old value answers where the run fails:
            ``stale-if-error`` of RFC 5861.
        refresh_ahead: part of the ttl, 0 to 1, after which a hit has the next value made; 0 for
            never.
        retries: how often a run that has raised one of ``retry_on`` is tried again.
        backoff_s: the shortest pause before one, in seconds; each is up to three times the last.
        batch: the most ids that its handler is called with; 0 where it takes one, and no list.
        batch_wait_s: seconds that the first of them waits for others.
        bounds: of what a node keeps of it.
        rate, rate_per_id: runs that may begin in a second on a node, and of one id; 0 for any
            number.
    """

    ttl_s: float
    jitter: float = 0.0
    negative_ttl_s: float | None = None
    negative: Errors = ()
    stale_s: float = 0.0
    on_error_s: float = 0.0
    refresh_ahead: float = 0.0
    retries: int = 0
    retry_on: Errors = (Exception,)
    backoff_s: float = 0.1
    batch: int = 0
    batch_wait_s: float = 0.0
    bounds: Bounds = UNBOUNDED
    rate: float = 0.0
    rate_per_id: float = 0.0

    @property
    def has_rate(self) -> bool:
        return self.rate > 0 or self.rate_per_id > 0

    @property
    def late_s(self) -> float:
        """Seconds past its ttl for which a value is kept."""
        return max(self.stale_s, self.on_error_s)

    @property
    def keeps_late(self) -> bool:
        """Whether a value may be wanted when it is no hit any more that needs nothing else."""
        return self.late_s > 0 or self.refresh_ahead > 0

    def ttl_of(self, text: str, own_ttl_s: float | None, chance: Chance) -> float:
        """Return the ttl of a value.

        Args:
            text: the value as JSON.
            own_ttl_s: what its handler said; None for nothing.
        """
        if own_ttl_s is not None:
            return own_ttl_s
        ttl_s = self.ttl_s
        if text == "null" and self.negative_ttl_s is not None:
            ttl_s = self.negative_ttl_s
        return ttl_s * (1.0 - self.jitter * chance()) if self.jitter else ttl_s

    def life(self, made_at: float, ttl_s: float) -> Life:
        """Return the life of a value that was made at a moment and has this ttl."""
        fresh_until = made_at + ttl_s
        first_s = ttl_s * self.refresh_ahead if self.refresh_ahead else ttl_s
        return Life(made_at + first_s, fresh_until, fresh_until + self.late_s)

    def remembers(self, error: BaseException) -> bool:
        """Whether an error is answered again, without a run, for ``negative_ttl_s``."""
        return bool(self.negative_ttl_s) and isinstance(error, self.negative)

    def tries_again(self, error: BaseException, tried: int) -> bool:
        """Whether a run that has raised this is tried again, when it was so often before."""
        return tried < self.retries and isinstance(error, self.retry_on)


def policy_of(ttl: float, options: PolicyOptions) -> Policy:
    """Return the policy that a ttl in seconds and options stand for.

    Raises:
        ConfigError: one is unknown, out of bounds, or needs another one.
    """
    if not isinstance(ttl, int | float) or not 0 <= ttl <= MAX_TTL_S:
        raise ConfigError(f"invalid ttl {ttl!r}: seconds, 0 to {MAX_TTL_S:g}")
    unknown = options.keys() - PolicyOptions.__annotations__.keys()
    if unknown:
        raise ConfigError(f"unknown options of a resource: {', '.join(sorted(unknown))}")
    found = Policy(
        float(ttl),
        jitter=_number(options, "ttl_jitter", 0.0, most=1.0),
        negative_ttl_s=_number(options, "negative_ttl", 0.0) if "negative_ttl" in options else None,
        negative=_errors(options, "negative", ()),
        stale_s=_number(options, "stale_ttl", 0.0),
        on_error_s=_number(options, "stale_on_error", 0.0),
        refresh_ahead=_number(options, "refresh_ahead", 0.0, most=1.0),
        retries=int(_number(options, "retries", 0, most=MAX_RETRIES, whole=True)),
        retry_on=_errors(options, "retry_on", (Exception,)),
        backoff_s=_number(options, "backoff", 0.1, most=LONGEST_BACKOFF_S),
        batch=int(_number(options, "batch", 0, most=MAX_BATCH, whole=True)),
        batch_wait_s=_number(options, "batch_wait_s", 0.0, most=MAX_BATCH_WAIT_S),
        bounds=_bounds(options),
        rate=_rate(options, "rate"),
        rate_per_id=_rate(options, "rate_per_id"),
    )
    keeping = options.keys() - {"retries", "retry_on", "backoff", "rate", "rate_per_id"}
    if ttl <= 0 and keeping:
        name = min(keeping)
        raise ConfigError(f"{name} is for a resource that keeps its values: give it a ttl over 0")
    if found.negative and not found.negative_ttl_s:
        raise ConfigError("negative needs a negative_ttl: for how long the errors are remembered")
    if "batch" in options and not found.batch:
        raise ConfigError(f"invalid batch=0: a whole number from 1 to {MAX_BATCH}")
    if found.batch_wait_s and not found.batch:
        raise ConfigError("batch_wait_s needs a batch: the most ids that go together")
    return found


def _number(
    options: PolicyOptions, name: str, default: float, *, most: float = MAX_TTL_S,
    whole: bool = False,
) -> float:  # fmt: skip
    value: Any = options.get(name, default)
    kind = int if whole else int | float
    if isinstance(value, kind) and not isinstance(value, bool) and 0 <= value <= most:
        return float(value)
    what = "a whole number" if whole else "a number"
    raise ConfigError(f"invalid {name}={value!r}: {what} from 0 to {most:g}")


def _rate(options: PolicyOptions, name: str) -> float:
    value: Any = options.get(name)
    if value is None or (isinstance(value, float | int) and LEAST_RATE <= value <= MAX_RATE):
        return float(value or 0)
    raise ConfigError(
        f"invalid {name}={value!r}: runs a second, from {LEAST_RATE:g} to {MAX_RATE:g}"
    )


def _bounds(options: PolicyOptions) -> Bounds:
    given = {name: value for name, value in options.items() if name in Bounds._fields}
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"invalid {name}={value!r}: a whole number, 1 or more")
    return Bounds(**given) if given else UNBOUNDED  # type: ignore[arg-type]  # they are ints


def _errors(options: PolicyOptions, name: str, default: Errors) -> Errors:
    value: Any = options.get(name, default)
    found = value if isinstance(value, tuple | list) else (value,)
    if all(isinstance(one, type) and issubclass(one, Exception) for one in found):
        return tuple(found)
    raise ConfigError(f"invalid {name}={value!r}: classes of exceptions, as (LookupError,)")


def check_own_ttl(ttl: object) -> float:
    """Return the ttl of one value, in seconds.

    Raises:
        ValueError: not a number from 0 to 86400.
    """
    if isinstance(ttl, int | float) and not isinstance(ttl, bool) and 0 <= ttl <= MAX_TTL_S:
        return float(ttl)
    raise ValueError(f"the ttl of a value is 0 to {MAX_TTL_S:g} seconds, not {ttl!r}")
