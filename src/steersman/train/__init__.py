"""Loops and learners: `fit` runs a learner over data; what is optimised comes from `objective`."""
