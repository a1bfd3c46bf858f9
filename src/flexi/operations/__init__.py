"""pyinfra operations that flexi needs and pyinfra does not have. Each changes nothing where nothing is to be changed."""
