"""Everything around the network: images in, poses out."""
