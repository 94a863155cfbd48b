"""What shows and measures rqproc from outside: the demo, ``bench`` and ``torture``.

``processes``, ``servers``, ``proxy``, ``journal``, ``overlaps`` and ``usage`` are the
test kit's and the tests' too.
"""
