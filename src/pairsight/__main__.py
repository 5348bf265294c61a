"""`python -m pairsight`, as launchers of several processes start it: the same as the command `pairsight`."""

from pairsight.cli.main import console

if __name__ == "__main__":
    console()
