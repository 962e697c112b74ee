"""What the logits and their margins say. May import network, derivatives and other measures."""
