"""Pure tensor maths of the methods, and the components that carry their hyperparameters.

Functions here take and return tensors, run no model and keep no state. Leaves out: forward passes and loops (`train`).
"""
