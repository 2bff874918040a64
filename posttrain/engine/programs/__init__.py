"""Programs that another Python runs, in the environment of the package that each is named after: they import nothing of this one."""
