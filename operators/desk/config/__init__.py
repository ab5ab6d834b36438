"""`penstock config`: the settings of the pool, in the file and in force."""
