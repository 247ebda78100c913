"""Settings to train with (*.flags), and the programs behind every figure in results/."""
