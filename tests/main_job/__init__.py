"""The main job: ten thousand messages through failing providers, counted at the receiving end.

`python -m tests.main_job` starts the receiving servers and the whole system, sends `tests/data/people.csv`, lets
providers fail on a schedule, compares four counts to the message, redrives what failed from the console in a real
browser, and compares again. It prints what it does and finds; exit 1 where anything disagrees.
"""
