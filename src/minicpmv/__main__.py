"""``python -m minicpmv`` is the ``minicpmv`` command."""

import sys

from minicpmv.cli.main import main

sys.exit(main())
