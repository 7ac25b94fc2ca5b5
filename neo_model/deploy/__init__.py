"""Using a trained detector."""

from neo_model.deploy.predict import Detections, Detector, load_detector

__all__ = ["Detections", "Detector", "load_detector"]
