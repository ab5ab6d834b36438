"""How long the fuzz targets look: briefly and always alike in `make test`, long and each time otherwise in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

LONG = "PENSTOCK_FUZZ_EXAMPLES"  # set by `python -m tests.fuzz`

_quiet = [
    HealthCheck.too_slow,
    HealthCheck.function_scoped_fixture,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
]
settings.register_profile(
    "short", max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=_quiet
)
settings.register_profile(
    "long",
    max_examples=int(os.environ.get(LONG, "2000")),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=_quiet,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)

# Not load_profile: that would change the settings of every other test in the session.
fuzz = settings.get_profile("long" if os.environ.get(LONG) else "short")
