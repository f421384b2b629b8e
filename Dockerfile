# One image with every program; docker-compose.yml and nomad/ say which of them runs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --workspace --bins

FROM debian:bookworm-slim
# curl: for health checks. ca-certificates: for AWS and the issuer's keys.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --home-dir /var/lib/flash flash
COPY --from=build \
  /src/target/release/auction-management \
  /src/target/release/auction-notifications \
  /src/target/release/bid-persistence \
  /src/target/release/bid-processing \
  /src/target/release/flash \
  /src/target/release/timer \
  /src/target/release/websocket \
  /usr/local/bin/
ENV FLASH_DIRECTORY=/var/lib/flash
USER flash
CMD ["flash", "--help"]
