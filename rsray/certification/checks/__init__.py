"""Whether certificates are what their counts and their network say."""
