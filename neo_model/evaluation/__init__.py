"""COCO metrics, tables and pictures of detections."""

from neo_model.evaluation.coco import SUMMARY_KEYS, CocoEvaluator, metrics_json
from neo_model.evaluation.pictures import draw_detections, draw_objects
from neo_model.evaluation.source_boxes import source_boxes_xyxy
from neo_model.evaluation.tables import class_table, summary_table

__all__ = [
    "SUMMARY_KEYS",
    "CocoEvaluator",
    "class_table",
    "draw_detections",
    "draw_objects",
    "metrics_json",
    "source_boxes_xyxy",
    "summary_table",
]
