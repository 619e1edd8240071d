"""Looking at cases: what a folder holds and what is wrong with it, and pictures of cases."""
