"""F0: what the alert manager decides: who is told what, and when. All of it pure."""
