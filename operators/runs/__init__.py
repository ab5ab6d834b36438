"""The control plane: runs (long jobs of operators) on RQ, which may call an allow-list of functions and nothing else."""
