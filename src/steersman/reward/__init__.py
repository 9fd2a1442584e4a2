"""What says how good a response is: learned reward models and their quality report."""
