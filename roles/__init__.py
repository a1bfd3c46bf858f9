"""One package for each role: `install(...)` turns its part of the plan into pyinfra operations."""
