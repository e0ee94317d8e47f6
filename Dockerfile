# syntax=docker/dockerfile:1
# The image of crm-relay. Both bases are arguments: pin them by digest (`name@sha256:…`) or bring your own, of the
# same Debian release, since the binary links against glibc and libgcc_s.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# Dependencies have a layer of their own, which lasts until Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/bench \
    && touch src/lib.rs benches/bench/main.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --profile image \
    && rm -r src
COPY src src
# Cargo goes by times: what was just copied may be older than what was built of the empty files.
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile image \
    && mkdir -p /data/crm-relay

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crm-relay" \
      org.opencontainers.image.description="Change data capture for HubSpot: signed webhooks in, complete ordered records out." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /build/target/image/crm-relay /usr/local/bin/crm-relay
# Where the embedded bus keeps its store; mount a volume here. Nothing else is ever written.
COPY --from=build --chown=65532:65532 /data/crm-relay /var/lib/crm-relay
# The environment ranks above the file, so a container listens where its ports are published.
ENV CRM_RELAY_CONFIG=/etc/crm-relay/relay.toml \
    CRM_RELAY__RECEIVER__LISTEN=0.0.0.0:8080 \
    CRM_RELAY__ADMIN__LISTEN=0.0.0.0:9090 \
    CRM_RELAY__BUS__DATA_DIR=/var/lib/crm-relay
# What is freed goes back to the system: glibc keeps more and more of it otherwise (GUARANTEES.md has the figures).
ENV MALLOC_MMAP_THRESHOLD_=131072
EXPOSE 8080 9090
USER 65532:65532
WORKDIR /var/lib/crm-relay
ENTRYPOINT ["/usr/local/bin/crm-relay"]
CMD ["run"]
