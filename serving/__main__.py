"""`python -m serving HOST PORT`: the service in this process, set by its environment."""

import sys

from isogon.errors import IsogonError
from serving.listening import listen
from serving.service import load
from serving.settings import settings_from_environment


def main() -> None:
    """Listen until told to end; say on stderr what is wrong."""
    host, port = sys.argv[1:]
    try:
        settings = settings_from_environment()
        load(settings)
    except IsogonError as error:
        sys.exit(str(error))
    listen(host=host, port=int(port), deadline=settings.deadline)


if __name__ == "__main__":
    main()
