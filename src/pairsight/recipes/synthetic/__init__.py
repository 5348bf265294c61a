"""The synthetic recipe (PDS-DPO): its options, its steps and its texts."""
