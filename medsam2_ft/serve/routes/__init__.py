"""Routes of the API, by concern."""
