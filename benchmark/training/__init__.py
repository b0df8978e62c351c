"""What the pretraining loop is made of: batches, steps, optimizers, states, logs."""
