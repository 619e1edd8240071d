"""Commands that are no more than a view on a module of the package."""
