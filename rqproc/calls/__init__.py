"""Calls on their way to the cluster and back: for threads, and for the tasks of an event loop."""
