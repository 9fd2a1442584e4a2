"""Loss functions: one value a token or an example; how they are averaged is `objective.reduce`'s business."""
