"""What is written to disk and read back: atomic files, run directories, metrics, checkpoints. Imports core only."""
