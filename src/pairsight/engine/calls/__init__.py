"""Paid calls: attempts, limits, answers and options."""
