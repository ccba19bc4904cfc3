# The mesh's own image: workers, producers, command line.
# Target `core` archives in files; `full`, the default, has every extra: S3, gateway,
# Flower, notifications, Triton, Home Assistant, analytics, Kubernetes.
FROM python:3.12-slim AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

FROM python AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY meshtasks meshtasks
COPY config config
# Built in a directory of its own, so that the build tool stays out of the image.
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python AS core-packages
COPY requirements-core.lock ./
RUN python -m venv /opt/mesh \
 && /opt/mesh/bin/pip install --require-hashes -r requirements-core.lock
COPY --from=wheel /wheels /wheels
RUN /opt/mesh/bin/pip install --no-deps /wheels/*.whl

FROM python AS full-packages
COPY requirements-full.lock ./
RUN python -m venv /opt/mesh \
 && /opt/mesh/bin/pip install --require-hashes -r requirements-full.lock
COPY --from=wheel /wheels /wheels
RUN /opt/mesh/bin/pip install --no-deps /wheels/*.whl

FROM python AS mesh
RUN useradd --uid 10001 --create-home --home-dir /var/lib/mesh mesh
ENV PATH=/opt/mesh/bin:$PATH PYTHONUNBUFFERED=1 \
    MESH_CONFIG_DIR=/etc/mesh MESH_STATE_DIR=/var/lib/mesh/state
COPY config /etc/mesh
RUN mkdir /var/lib/mesh/state && chown mesh:mesh /var/lib/mesh/state
USER mesh
WORKDIR /var/lib/mesh
# `python -m producers NAME` as in a clone.
COPY producers producers
VOLUME /var/lib/mesh/state
ENTRYPOINT []
CMD ["meshtasks", "--help"]

FROM mesh AS core
COPY --from=core-packages /opt/mesh /opt/mesh

FROM mesh AS full
COPY --from=full-packages /opt/mesh /opt/mesh
