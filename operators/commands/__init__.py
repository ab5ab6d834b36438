"""Which commands there are."""
