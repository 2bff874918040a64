"""Over how many seeds effects are shown: three with `make effects`, the first of them with `make test`."""

import os

SEEDS = range(int(os.environ.get("SEEDS", "1")))
