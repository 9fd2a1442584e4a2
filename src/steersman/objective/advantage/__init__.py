"""Advantages: how much better a response, or a token of it, was than what the policy usually does."""
