"""`python -m steersman`: the command `steersman`, where the console script is not on the path."""

from steersman.cli.main import main

if __name__ == "__main__":
    main()
