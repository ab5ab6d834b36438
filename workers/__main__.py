"""Thin on purpose: the spawned engine imports this module again as `__mp_main__`, and must not load redis with it."""

if __name__ == "__main__":
    import os
    import sys

    from workers.main import main

    code = main()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end costs each restart 50 ms, and waits for an engine that survives SIGKILL
