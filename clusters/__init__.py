"""The cluster definitions of the installed package, for importlib.resources."""
