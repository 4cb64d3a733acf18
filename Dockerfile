# The image has the one program, statically linked, and the authorities for TLS.
#
#   docker build -t rpcdo .
#   docker run --rm rpcdo --help

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/rpcdo ./cmd/rpcdo
# A volume that is mounted here for the first time gets this directory's owner.
RUN mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/rpcdo /rpcdo
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENTRYPOINT ["/rpcdo"]
