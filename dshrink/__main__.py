"""``python -m dshrink``: the command line, as ``accelerate launch -m dshrink`` starts it."""

from __future__ import annotations

from dshrink.cli.main import main

if __name__ == "__main__":
    main()
