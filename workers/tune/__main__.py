"""Thin on purpose: spawned engines import this module again as `__mp_main__`."""

if __name__ == "__main__":
    from workers.tune.program import main

    main()
