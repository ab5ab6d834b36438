"""Model artifacts as an operator handles them: the commands. What they do lies in `operators.models` and `operators.catalogue`."""
