"""`python -m posttrain.cli` is `posttrain`."""

from .main import main

raise SystemExit(main())
