"""Finds how a model is best served, by measuring it: `penstock tune`."""
