"""Label formats: Pascal VOC, YOLO and COCO."""
