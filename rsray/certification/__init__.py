"""Certification: which draws are owed, how they are counted, where the counts are kept."""
