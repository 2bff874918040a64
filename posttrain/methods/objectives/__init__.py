"""Methods that train weights: each returns a loss, run by the one loop."""
