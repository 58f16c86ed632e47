"""What would differ for other inputs than images: decoding, inspection, augmentation."""
