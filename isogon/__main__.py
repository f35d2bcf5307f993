"""`python -m isogon`."""

from isogon.cli.main import main

if __name__ == "__main__":
    main()
