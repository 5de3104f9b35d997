"""Papers reproduced, their figures beside ours: ``python -m benchmarks.papers NAME``."""
