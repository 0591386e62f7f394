"""What ``import tensorrt`` gives in a process with this folder's parent on PYTHONPATH.

It is the strict fake of the version in $FAKE_TENSORRT.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from strict_tensorrt import build

sys.modules[__name__] = build(os.environ.get("FAKE_TENSORRT", "8.5.3.1"))
