"""The training of a run: its loop, its processes and its checkpoints."""
