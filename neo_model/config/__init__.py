"""Configuration: composing it with Hydra, checking it against the code, building objects from it."""

from neo_model.config.compose import compose_node, compose_training
from neo_model.config.instantiate import instantiate
from neo_model.config.restore import restore_training_config
from neo_model.config.validate import validate_training

__all__ = ["compose_node", "compose_training", "instantiate", "restore_training_config", "validate_training"]
