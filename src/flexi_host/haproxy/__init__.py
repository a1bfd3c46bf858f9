"""Commands to the running HAProxy, by its admin socket."""
