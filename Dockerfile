# The mesh's own image: workers, gateway, producers, command line; for every
# architecture that the base has. Target `core` archives in files; `full`, the default,
# has every extra: S3, gateway, Flower, notifications, Triton, Home Assistant, analytics,
# Kubernetes.
#
#   docker build --target core -t meshtasks:core .
#   docker buildx build --platform linux/amd64,linux/arm64 --push -t NAME .
#
# The base by digest, as a release should have it (`docker buildx imagetools inspect
# python:3.12-slim` prints the one of all architectures):
#   --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# Whoever cloned may have had umask 077; in the image everybody reads what is here.
FROM python AS source
COPY . /src
RUN chmod -R u=rwX,go=rX /src

FROM source AS wheel
# Built in a directory of its own, so that the build tool stays out of the image.
RUN pip wheel --no-deps --wheel-dir /wheels /src

# Writes what an environment holds, as CycloneDX.
FROM python AS sbom
RUN python -m venv /opt/sbom && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0

# A virtual environment without pip: the base's installs into it.
FROM python AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils
COPY .ci/trim-packages /usr/local/bin/

FROM build AS core-packages
COPY requirements-core.lock .
RUN python -m venv --without-pip /opt/mesh \
 && pip --python /opt/mesh install --no-compile --require-hashes -r requirements-core.lock \
 && sh /usr/local/bin/trim-packages /opt/mesh
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/mesh install --no-deps /wheels/*.whl \
 && MESH_BROKER_URL=amqp://localhost /opt/mesh/bin/python -c 'import meshtasks.celery'

FROM build AS full-packages
COPY requirements-full.lock .
RUN python -m venv --without-pip /opt/mesh \
 && pip --python /opt/mesh install --no-compile --require-hashes -r requirements-full.lock \
 && sh /usr/local/bin/trim-packages /opt/mesh
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/mesh install --no-deps /wheels/*.whl \
 && MESH_BROKER_URL=amqp://localhost /opt/mesh/bin/python -c 'import meshtasks.celery, \
apprise, duckdb, fastapi, flower, kubernetes.client, kubernetes.watch, matplotlib.pyplot, \
minio, nicegui.ui, pyarrow.dataset, pyarrow.parquet, tritonclient.http, uvicorn, websockets'

FROM sbom AS core-sbom
COPY --from=core-packages /opt/mesh /opt/mesh
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible \
      --output-file /sbom.cdx.json /opt/mesh/bin/python

FROM sbom AS full-sbom
COPY --from=full-packages /opt/mesh /opt/mesh
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible \
      --output-file /sbom.cdx.json /opt/mesh/bin/python

# What the image keeps of the base: no pip, and nothing that only people read or debug.
FROM build AS base
# state: what the mesh remembers. archive: of an archive in files.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/mesh mesh \
 && install --directory --owner mesh --group mesh /var/lib/mesh /var/lib/mesh/state \
      /var/lib/mesh/archive \
 && find /usr/local/lib -name '*.so*' -exec strip --strip-unneeded {} + \
 && apt-get purge --yes --autoremove binutils \
 && find /usr/share/doc -type f ! -name copyright -delete \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip \
      /usr/local/bin/trim-packages /usr/local/lib/python3*/site-packages/* /usr/share/info /usr/share/locale \
      /usr/share/man /var/cache/* /var/lib/apt/lists/* /var/log/*

FROM scratch AS mesh
COPY --from=base / /
COPY --from=source /src/config /etc/mesh
ENV PATH=/opt/mesh/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    MESH_CONFIG_DIR=/etc/mesh MESH_STATE_DIR=/var/lib/mesh/state
# By number: Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/mesh
# `python -m producers NAME` as in a clone.
COPY --from=source /src/producers producers
VOLUME /var/lib/mesh/state
ENTRYPOINT []
CMD ["meshtasks", "--help"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="meshtasks" \
      org.opencontainers.image.description="The data mesh a homelab runs its house on" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      meshtasks.sbom="/usr/share/doc/meshtasks/sbom.cdx.json"

FROM mesh AS core
COPY --from=core-sbom /sbom.cdx.json /usr/share/doc/meshtasks/
COPY --from=core-packages /opt/mesh /opt/mesh

FROM mesh AS full
COPY --from=full-sbom /sbom.cdx.json /usr/share/doc/meshtasks/
COPY --from=full-packages /opt/mesh /opt/mesh
