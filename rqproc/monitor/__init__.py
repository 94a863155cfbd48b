"""For those who run a cluster: what is told of it, and by what it is judged.

``monitor`` looks at a cluster again and again: ``overview`` says what one look has found,
``events`` what has changed since the one before. ``rqproc top`` shows that, and ``web`` serves it
to browsers, guarded by ``guard``. ``doctor`` looks for what is wrong.
"""
