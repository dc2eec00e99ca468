"""``python -m gazelit``."""

import sys

from gazelit.cli import main

if __name__ == "__main__":
    sys.exit(main())
