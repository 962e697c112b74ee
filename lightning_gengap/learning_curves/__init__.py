"""Learning curves: a user's own module and recipe, trained on parts of the data, and what that says of all of them.

`learning_curve` is the door. It splits the data (`split`), trains each part (`part_training`), reads accuracies after
epochs (`readings`), keeps what is finished in files (`part_files`), and gives a `LearningCurve` (`curve`), which goes
by `power_law`. What a curve belongs to is in `origin`. May import everything but the commands. The room has the name of
the plural, because a module with the name of a public function would hide it.
"""
