"""The cluster definitions, as the installed package has them: importlib.resources finds them here."""
