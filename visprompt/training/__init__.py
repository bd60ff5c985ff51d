"""Learning prompts: one loop for every strategy that has something to learn, and what it is taught with.

- `fit`: from data to a finished folder, by one run or a sweep; `run`: one run; `sweep`: several, chosen on validation;
- `settings`: how long, how fast, with what (`FitSettings`);
- `loop`: optimiser steps on accelerate, with checkpoints, resuming and early stop; `evaluation`: figures of a split;
- `objectives`: what is learned from one kind of data;
- `heads`: what reads the features that a tuned tower gives;
- `dataset`: from labelled images to a model's inputs; `pixel_labels`: the same for labels per pixel.

Nothing here knows a strategy or a model class.
"""
