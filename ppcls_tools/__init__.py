"""What knows PaddleClas and PaddleX: their lists, configs, weights, and how they read our exports."""
