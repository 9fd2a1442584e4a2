"""What a configuration file may say: the recipes of every training verb, and the jobs that carry them out."""
