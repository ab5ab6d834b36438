"""Thin on purpose: the spawned engine imports this module again as `__mp_main__`, and must not load redis with it."""

if __name__ == "__main__":
    import sys

    from workers.main import main

    sys.exit(main())
