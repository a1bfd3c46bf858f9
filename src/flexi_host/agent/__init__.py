"""The agent on GPU hosts: keeps the instances right and reports how they are."""
