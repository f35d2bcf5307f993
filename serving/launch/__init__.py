"""Starting and ending the service: sockets, one process or several, signals."""
