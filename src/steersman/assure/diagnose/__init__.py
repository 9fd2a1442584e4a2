"""What is wrong with a policy, and where: figures that say nothing of how to train it."""
