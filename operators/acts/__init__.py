"""`penstock audit`: who changed what in the pool."""
