"""The state of a site as its hosts report it, for `flexi status` and for the wait at the end of a deploy."""
