"""pyinfra operations that flexi needs and pyinfra does not have. Each yields nothing where nothing is to change."""
