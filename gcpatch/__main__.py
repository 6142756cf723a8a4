"""`python -m gcpatch` is the command `gcpatch`."""

import sys

from gcpatch.cli import main

sys.exit(main())
