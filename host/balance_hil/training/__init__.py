"""Training: ``trainer.train`` runs one algorithm on one environment and writes ``policy.zip`` and ``training.json``."""
