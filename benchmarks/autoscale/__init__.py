"""A simulation of autoscaling over synthetic traffic; `python -m benchmarks.autoscale` runs it."""
