"""Memory and time of a pretraining step on generated input: no data set, no data loading, the same loss as in training."""
