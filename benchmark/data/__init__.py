"""From source files to batches: records, splits, images, geometry, the pixel cache, reports."""
