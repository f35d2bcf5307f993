"""One run: its loop, its processes, and what survives an interruption of it."""
