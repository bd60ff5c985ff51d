"""Learning prompts: one loop for every strategy that has something to learn, and what it is taught with.

- `settings`: how long, how fast, with what (`FitSettings`);
- `fitting`: the loop, on accelerate: checkpoints, resuming, early stop (`fit`);
- `sweep`: several settings, chosen on validation;
- `objective`: what is learned from one kind of data; `classification`, `segmentation`, `language` are ours, and
  `encoders` is what the first two share;
- `heads`: what reads the features that a tuned tower gives;
- `loading`: from labelled pictures to a model's inputs.

Nothing here knows a strategy or a model class.
"""
