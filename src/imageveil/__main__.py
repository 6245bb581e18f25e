"""`python -m imageveil` is the command `imageveil`."""

from imageveil.cli import main

if __name__ == "__main__":
    main()
