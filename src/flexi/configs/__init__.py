"""From the plan to the files that our programs read on the hosts."""
