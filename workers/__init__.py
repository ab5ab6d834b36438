"""Slots and engines: a slot owns Redis I/O and decides, its engine owns the device and the model."""
