"""``python -m gazelit``."""

import sys

from gazelit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
