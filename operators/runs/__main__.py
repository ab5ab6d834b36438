"""`python -m operators.runs`: the program supervisord runs to work bulk runs. Thin: `program` does it."""

from __future__ import annotations

import sys

from operators.runs.program import main

if __name__ == "__main__":
    sys.exit(main())
