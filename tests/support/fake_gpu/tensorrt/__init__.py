"""What ``import tensorrt`` gives in a process with this folder's parent on PYTHONPATH.

It is the strict fake of the version in $FAKE_TENSORRT.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from strict_tensorrt import build

sys.modules[__name__] = build(os.environ.get("FAKE_TENSORRT", "8.5.3.1"))
