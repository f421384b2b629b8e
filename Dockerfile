# The images. `production` is the default and holds the six services and flash-admin. `development` adds flash, which
# signs tokens for docker-compose.yml. docker-compose.yml and nomad/ choose the program that runs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Without flash: built together with it, these programs would get its features (fault points, API schemas).
RUN cargo build --release --locked -p flash-services

FROM build AS build-development
RUN cargo build --release --locked -p flash --bin flash

FROM debian:bookworm-slim AS services
# The authorities that certify AWS and the token issuer. The user's number is fixed because the volumes of nomad/ belong to
# it.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/lib/flash flash
# One file with all programs, and a link for each.
COPY --from=build /src/target/release/flash-services /usr/local/bin/
RUN cd /usr/local/bin \
 && for program in auction-management auction-notifications bid-persistence bid-processing flash-admin timer websocket; \
    do ln -s flash-services "$program"; done
USER flash

FROM services AS development
COPY --from=build-development /src/target/release/flash /usr/local/bin/
ENV FLASH_DIRECTORY=/var/lib/flash
CMD ["flash", "--help"]

# Last, so that a build without a target gives this one.
FROM services AS production
CMD ["flash-admin", "--help"]
