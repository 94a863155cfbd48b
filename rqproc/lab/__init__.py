"""What shows and measures rqproc from outside: the demo, ``bench`` and ``torture``."""
