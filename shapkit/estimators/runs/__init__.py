"""What every estimate needs, whatever the method: when it ends, what it remembers, in which unit it computes."""
