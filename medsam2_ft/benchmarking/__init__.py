"""The benchmark: data sets x models x strategies to scores, tables, tests and figures."""
