"""What an attack, a defense, a part or a metric is granted, and what every one of them has at hand."""
