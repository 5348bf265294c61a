"""The embedded models: shapes, cards and where they lie."""
