"""Whether the network predicts as classifiers do that never saw the label of the sample in question.

May import network, linalg, and the rooms of margins and difficulty.
"""
