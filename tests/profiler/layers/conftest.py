"""Makes ``small_layers`` importable: it is also run as a script, so it cannot live in here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
