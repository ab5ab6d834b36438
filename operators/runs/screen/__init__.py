"""How a run that is waited for is shown."""
