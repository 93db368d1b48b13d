"""The corpus: small training programs, faults, a recorder and labels by outcome."""
