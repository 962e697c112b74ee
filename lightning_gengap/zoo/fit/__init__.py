"""From a table of runs to a predictor: specifications, ridge regression, intervals.

May import predictors and the table.
"""
