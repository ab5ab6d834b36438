"""Arrival traces, seeded and recorded, and tables T, run through the real batcher with a clock that is a number: what each mechanism gains."""
