"""What a step costs: model specifications, operators, cost sources, memory, compiled step prices."""
