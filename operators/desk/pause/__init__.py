"""`penstock pause` and `penstock resume`: nobody claims from a model's lanes, while its slots stay warm."""
