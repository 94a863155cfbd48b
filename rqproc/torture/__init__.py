"""A fault-injection run: nodes that are killed, paused and cut off under load, then a judgement.

``play`` is the run, ``nemesis`` does the harm, ``load`` asks, ``app`` is asked and writes into
``pages`` what it does, and ``history`` judges what was written down.
"""
