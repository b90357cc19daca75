"""Run the command line as ``python -m attendet``."""

from attendet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
