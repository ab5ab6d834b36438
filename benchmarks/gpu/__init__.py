"""What the pool costs a GPU: the bare loop against the pool, and the device's memory over many lives of slots."""
