"""Trials that a user can run on the machine that is to train: ``python -m neo_model.testing.kill_loop``."""
