"""The zoo: many small models trained by Lightning under GapMonitor, from which predictors are fitted.

File-to-file stages: `recipe` says what determines a run, `train` turns a recipe into `runs/<key>.json`, `table`
turns runs into one table, `fit` turns a table into a predictor, `evaluation` scores it on held-out groups under
`protocol`, and `card` writes both down. The rest of the package never imports this folder.
"""
