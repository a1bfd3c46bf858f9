"""The guard: reads every request at the gateway before an instance does."""
