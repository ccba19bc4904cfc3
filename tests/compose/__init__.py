"""docker-compose.yml on a real Docker engine: `make test-compose`.

The stack is started from a copy of the project as docs/docker.md says, under a project
name of its own, and taken down with its volumes afterwards. Images come from the engine
or are pulled. One with the label ``meshtasks.stand-in`` stands in for a real one that
cannot be had; the summary names it, with what the label says it is made of.
"""
