"""The ledger: the gateway's access log, usage and metrics."""
