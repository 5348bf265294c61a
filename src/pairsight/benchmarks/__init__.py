"""Official benchmarks, one per file; scoring is pure."""
