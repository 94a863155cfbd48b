"""``rqproc bench``: what everything costs, as ratios to what users would have instead.

Absolute times say more about a machine than about a program, so everything is measured in one run,
in interleaved rounds, and compared by the medians of the rounds' ratios.

A *probe* measures one thing for some seconds; its *reading* is what it found. A *row* is a figure
made of two readings of a round (or of one), with the target that it should meet. ``rows`` is the
table of both; ``run_rounds`` runs the rounds on the ``bench`` that the probes share.
"""
