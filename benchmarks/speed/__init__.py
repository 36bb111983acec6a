"""What exact values and the penalty cost, in time and in network runs."""
