"""A fault-injection run: nodes that are killed, paused and cut off under load, then a judgement.

``play`` is the run, ``nemesis`` does the harm, ``load`` asks, ``app`` is asked, and ``history``
judges what was written down.
"""
