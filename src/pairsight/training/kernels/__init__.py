"""Attention, layers and head of packed rows: the arithmetic on which a step spends its time."""
