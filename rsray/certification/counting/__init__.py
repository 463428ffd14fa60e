"""Counting what is owed: by which evaluation, by whom, and what comes back."""
