"""The zoo: many small models, trained by Lightning under GapMonitor, to which predictors are fitted.

It works in stages. Each reads files and writes files, and can be repeated alone:

    recipe      train/plans/         which runs there are; train/recipe.py: what determines a run
    run         train/run.py         from a recipe to <key>.json; train/remeasure.py adds measures to it later
    table       table.py             from folders of runs to one .csv.gz
    predictor   fit/fit.py           from a table and a specification to a predictor's .json
    scores      evaluate/scores.py   from a table and a specification to held-out scores; evaluate/one_family.py:
                                     the same for a predictor of one family on one data set
    report      report/report.py     from scores to report.md; report/card.py: to a predictor's card

It may import all rooms of the package except the demo and the commands, which import it.
"""
