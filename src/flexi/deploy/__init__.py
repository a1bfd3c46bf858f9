"""`flexi deploy` and its relatives: running pyinfra."""
