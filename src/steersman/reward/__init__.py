"""What says how good a response is: graders of answers that can be checked, learned reward models."""
