"""``rqproc bench``: what a request costs, as ratios to a raw Redis round trip and to stock RQ.

Absolute times say more about a machine than about a program, so everything is measured in one run,
in interleaved rounds, and compared by medians.

``rivals`` makes the things that are measured, ``measure`` times them, ``report`` compares.
"""
