"""``python -m rqproc``."""

from rqproc.cli import main

main()
