"""What is counted and traced of the product's work: metrics with stable names, and spans."""
