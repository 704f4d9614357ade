"""From raw images to shards: decode, choose size and colour, reject, split. Open rows.py first."""
