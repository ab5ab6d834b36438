"""Runs begin here: `penstock run submit` and `check`."""
