"""Results of other code bases, and any mix of results in files and folders."""
