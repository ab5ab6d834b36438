"""Thin: see run.py."""

if __name__ == "__main__":
    import sys

    from tests.chaos.run import main

    sys.exit(main())
