"""The gateway's catalogue: the model lists of all instances as one."""
