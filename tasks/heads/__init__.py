"""Trained heads for dense tasks on frozen feature maps: pyramid, U-Net decoder, YOLOv3, and the loop that fits them."""
