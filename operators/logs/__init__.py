"""`penstock logs`: what the programs of this host wrote."""
