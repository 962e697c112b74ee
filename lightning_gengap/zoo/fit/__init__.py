"""From a table of runs to a predictor: specifications, ridge regression, intervals.

May import predictors and, of the zoo, only the table, its splits and the holding out of rows.
"""
