"""How the service is started and ended: sockets, one process or several, signals."""
