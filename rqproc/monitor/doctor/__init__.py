"""``rqproc doctor``: checks of a server and of the cluster on it, each with what to do.

``diagnose`` is the one entry. A check is a function that is given a ``ServerView`` and yields
findings; ``diagnosis.CHECKS`` lists them.
"""

from rqproc.monitor.doctor.diagnosis import CHECKS, diagnose
from rqproc.monitor.doctor.findings import EXIT_CODES, Finding, Level, worst

__all__ = ["CHECKS", "EXIT_CODES", "Finding", "Level", "diagnose", "worst"]
