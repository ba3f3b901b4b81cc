"""What the explorer's work finds and its views show: plain values, made in `work`, drawn in `views`."""
