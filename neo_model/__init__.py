"""RT-DETR trained, evaluated and shipped at the camera's own shape."""
