"""``python -m flashtrail``: the same as the `flashtrail` command, where the package is not installed."""

import sys

from flashtrail.cli import main

sys.exit(main())
