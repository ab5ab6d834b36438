"""How many slots a model shall have, from what waits and what T says."""
