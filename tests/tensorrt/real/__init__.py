"""What the tests of this folder share: see docs/gpus.md on ``make test-tensorrt``."""
