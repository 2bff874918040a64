"""Reports, computed from stored artifacts by pure functions."""
