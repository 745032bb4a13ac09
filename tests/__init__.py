"""The tests; a package, so that they can share `tests.factories` and `tests.postgres`."""
