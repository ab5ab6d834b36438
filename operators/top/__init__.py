"""`penstock top`: the pool on one screen, again and again."""
