"""For those who run a cluster: what is told of it, and by what it is judged."""
