"""The command line: a module for each command, its table beside it."""
