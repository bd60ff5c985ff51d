"""Suites of accuracies: tasks × ways of prompting × models."""
