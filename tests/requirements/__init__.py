"""One test for each promise of the requirements, in a module named after its heading."""
