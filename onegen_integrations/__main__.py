"""`python -m onegen_integrations` is the `onegen` command."""

from __future__ import annotations

import sys

from onegen_integrations.cli import main

if __name__ == "__main__":
    sys.exit(main())
