"""What a mask makes of a network: pieces that are measured, structures of whole networks."""
