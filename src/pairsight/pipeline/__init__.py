"""A complete run from one config: recipe -> strategy -> training -> benchmarks."""
