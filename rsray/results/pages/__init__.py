"""Results as HTML pages that work offline."""
