"""Our speed and memory beside other packages', in one run: ``python -m neo_model.benchmark NAME``."""
