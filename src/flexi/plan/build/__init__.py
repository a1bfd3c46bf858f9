"""From a site to its plan, component by component."""
