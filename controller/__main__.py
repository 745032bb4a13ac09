"""`python -m controller` runs the daemon."""

from __future__ import annotations

import sys

from controller.daemon import main

sys.exit(main())
