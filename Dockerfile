# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The image's own toolchain, not a download of the one that rust-toolchain.toml names.
ENV RUSTUP_TOOLCHAIN=$RUST_VERSION
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin roomcast \
    && cp target/release/roomcast /roomcast \
    && mkdir /data

FROM debian:bookworm-slim
# For rediss:// with a public certificate.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /roomcast /usr/local/bin/roomcast
COPY --from=build --chown=10001:10001 /data /data
USER 10001:10001
ENV ROOMCAST_DATA=/data
VOLUME /data
EXPOSE 9000
# bash speaks TCP by itself, so the image needs no curl. A node whose Redis is away is healthy:
# restarting it would help nobody.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PORT:-9000} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r -t 2 _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["roomcast"]
