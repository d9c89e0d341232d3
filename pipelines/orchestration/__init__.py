"""Prefect: flows, schedules, triggers, and the processes behind them."""
