"""`rqproc doctor` in this process, and what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rqproc import cli
from rqproc.monitor.doctor import CHECKS, EXIT_CODES, Finding

NAMESPACE = "ward"

Doctor = Callable[..., "Diagnosis"]


class Diagnosis:
    """What came of one run: ``of("memory")`` is what that check found."""

    def __init__(self, code: int, told: dict[str, object]) -> None:
        self.code = code
        found: list[dict[str, str]] = told["findings"]  # type: ignore[assignment]
        self.findings = [Finding(**one) for one in found]  # type: ignore[arg-type]
        assert code == EXIT_CODES[told["level"]], "the code is that of the worst"  # type: ignore[index]
        assert {finding.check for finding in self.findings} <= {"connection", *CHECKS}
        for finding in self.findings:
            assert finding.advice or finding.level in ("ok", "skipped"), finding

    def of(self, check: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.check == check]

    def only(self, check: str, level: str) -> str:
        """Return the text of the one finding of a check."""
        (finding,) = self.of(check)
        assert finding.level == level, finding
        return finding.text

    def worse(self, check: str, level: str) -> str:
        """Return the text of the one finding of this level."""
        (finding,) = (one for one in self.of(check) if one.level == level)
        return finding.text


def run_doctor(
    capsys: pytest.CaptureFixture[str], url: str, *options: str, namespace: str = NAMESPACE
) -> Diagnosis:
    capsys.readouterr()
    code = cli.run(("--url", url, "--namespace", namespace, "doctor", "--json", *options))
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return Diagnosis(code, json.loads(said.out))
