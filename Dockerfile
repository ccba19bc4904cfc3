# The mesh's own image: workers, producers, gateway, Flower, command line.
FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/mesh
WORKDIR /src
COPY requirements-runtime.lock ./
RUN /opt/mesh/bin/pip install --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY meshtasks meshtasks
COPY producers producers
COPY config config
# Built in a directory of its own, so that the build tool stays out of the image.
RUN pip wheel --no-deps --wheel-dir /wheels . && /opt/mesh/bin/pip install --no-deps /wheels/*.whl

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/mesh mesh
COPY --from=build /opt/mesh /opt/mesh
ENV PATH=/opt/mesh/bin:$PATH PYTHONUNBUFFERED=1 \
    MESH_CONFIG_DIR=/etc/mesh MESH_STATE_DIR=/var/lib/mesh/state
COPY config /etc/mesh
RUN mkdir /var/lib/mesh/state && chown mesh:mesh /var/lib/mesh/state
USER mesh
WORKDIR /var/lib/mesh
VOLUME /var/lib/mesh/state
ENTRYPOINT []
CMD ["meshtasks", "--help"]
