"""Counts from an actor to the files, and from the files to certificates."""
