"""Methods: one file is one method is one paper. Nothing here imports a sibling."""
