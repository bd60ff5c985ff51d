"""Training of learned prompts: one training loop for every strategy with trainable parameters.

- `fit`: from data to a finished run folder, by one run or by a sweep; `run`: one run; `sweep`: several runs, of which
  the validation split chooses one;
- `settings`: the hyperparameters (`FitSettings`);
- `loop`: optimiser steps on accelerate, with checkpoints, resuming and early stopping; `evaluation`: metrics of a
  split;
- `objectives`: the loss and the metrics for one kind of data;
- `heads`: classifiers and decoders on the features of a tuned tower;
- `dataset`: from labelled images to a model's inputs; `pixel_labels`: the same for labels per pixel.

No module here imports a strategy or a model class.
"""
