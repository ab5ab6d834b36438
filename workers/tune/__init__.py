"""Measures a model as slots run it, for `penstock tune`: real engines, slabs and data, without Redis and without a slot."""
