"""Public data sets as npz cases: ``python -m data_prep NAME SOURCE OUT``.

A data set is a recipe, a short YAML in ``recipes/``: what it is, how its folders look, and options
of ``medsam2-ft prepare``. Where a layout needs more, a module of the recipe's name adds them.
"""
