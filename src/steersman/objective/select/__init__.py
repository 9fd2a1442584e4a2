"""Selection: which groups, rows and tokens of a step are learnt from; what is left out is counted."""
