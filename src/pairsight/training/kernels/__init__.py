"""Attention, layers and head of packed rows: the arithmetic that a step spends its time on."""
