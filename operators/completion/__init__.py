"""`penstock completion`: what a shell offers behind Tab."""
