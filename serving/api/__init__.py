"""The HTTP interface: what may be asked, how it is refused, how it is answered."""
