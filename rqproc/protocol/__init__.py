"""What callers and nodes say to each other through Redis: keys, jobs, functions."""
