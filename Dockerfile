# The images. `production` is the default and holds the six services and flash-admin. `development` adds flash, which
# signs tokens for docker-compose.yml. docker-compose.yml and nomad/ choose the program that runs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Without flash: built together with it, these programs would get its features (fault points, API schemas).
RUN cargo build --release --locked -p auction-management -p auction-notifications -p bid-persistence -p bid-processing -p flash-admin -p timer -p websocket

FROM build AS build-development
RUN cargo build --release --locked -p flash --bin flash

FROM debian:bookworm-slim AS services
# curl: for health checks. ca-certificates: for AWS and the keys of the token issuer. The user's number is fixed because
# the volumes of nomad/ belong to it.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/flash flash
COPY --from=build \
  /src/target/release/auction-management \
  /src/target/release/auction-notifications \
  /src/target/release/bid-persistence \
  /src/target/release/bid-processing \
  /src/target/release/flash-admin \
  /src/target/release/timer \
  /src/target/release/websocket \
  /usr/local/bin/
USER flash

FROM services AS development
COPY --from=build-development /src/target/release/flash /usr/local/bin/
ENV FLASH_DIRECTORY=/var/lib/flash
CMD ["flash", "--help"]

# Last, so that a build without a target gives this one.
FROM services AS production
CMD ["flash-admin", "--help"]
