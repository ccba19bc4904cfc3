"""The same job in other frameworks, each as its users would write it.

Validate a temperature reading, convert it to °C, write it to the time-series
store, acknowledge. They run in environments of their own, so they share nothing
with meshtasks but the job.
"""
