"""``python -m semi_nmf_concepts`` is the command line."""

import sys

from semi_nmf_concepts.cli import main

sys.exit(main())
