"""Gradients of KL penalties and of DGPO where policy and reference disagree without bound."""
