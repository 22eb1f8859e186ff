"""The workbench: command line, training runs, tasks, rewards, evaluation, report. `dgpo` itself never imports it."""
