"""API keys of a site's consumers: made here, shown once, kept as digests, known to the gateways within seconds."""
