"""A Moodle that the university runs: set up to use the gateway, by its own PHP or by a person's hand."""
