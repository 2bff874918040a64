"""Ways to put a request that ought to be refused; the file name is the name of the attack."""
