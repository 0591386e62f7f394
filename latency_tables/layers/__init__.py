"""Tables of layers: what single convolutions, linear layers and poolings cost, in no network."""
