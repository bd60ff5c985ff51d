"""`python -m visprompt`, which is what `accelerate launch -m visprompt fit …` runs in every process."""

from visprompt.cli.app import main

if __name__ == "__main__":
    main()
