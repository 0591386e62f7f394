"""Networks: from a name to a traced graph, its operators, its chain of convolutions, its blocks."""
