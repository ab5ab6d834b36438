"""The contract kept in Redis: keys, messages, scripts. Imports none of our other packages."""
