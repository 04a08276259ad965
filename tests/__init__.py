"""All tests; a package so that the cluster vocabulary can be shared."""
