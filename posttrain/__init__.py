"""posttrain: one recipe takes a base language model to a measured, shipped one."""
