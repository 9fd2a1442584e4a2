"""Decisions as policies: an arm to recommend, a profile to field, a predictor to carry into unseen environments."""
