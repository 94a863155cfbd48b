"""What a caller may choose per request; see ``Resource.with_options``. Knows the bounds of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rqproc.calls.call import check_result_ttl, check_timeout
from rqproc.calls.fallback import check_on_lost
from rqproc.calls.jobs import JobOptions, check_options
from rqproc.calls.requests import RequestOptions
from rqproc.model import OnLost


@dataclass(frozen=True, slots=True)
class Options:
    """None where nothing was chosen."""

    timeout: float | None = None
    result_ttl: int | None = None
    on_lost: OnLost | None = None
    job: JobOptions = field(default_factory=JobOptions)

    @property
    def of_request(self) -> RequestOptions:
        return {"timeout": self.timeout, "on_lost": self.on_lost}

    def with_others(
        self,
        *,
        timeout: float | None = None,
        result_ttl: int | None = None,
        on_lost: OnLost | None = None,
        job: JobOptions | None = None,
    ) -> Options:
        """Return these with others in their place.

        Raises:
            ConfigError: out of bounds, or no such option.
        """
        options = self
        if timeout is not None:
            options = replace(options, timeout=check_timeout(timeout))
        if result_ttl is not None:
            options = replace(options, result_ttl=check_result_ttl(result_ttl))
        if on_lost is not None:
            options = replace(options, on_lost=check_on_lost(on_lost))
        if job:
            check_options(job)
            options = replace(options, job=options.job | job)
        return options
