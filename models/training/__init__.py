"""From the corpus to the model file: features, fitting, evaluation on programs held out whole."""
