"""Reading a YAML file with line numbers, findings and suggestions; used by the site and by courses."""
