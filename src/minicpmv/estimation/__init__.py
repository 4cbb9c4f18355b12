"""What a run will need, before there is a device to run it on: memory by component, and time of an epoch."""
